//! Bad moments of a workspace, in one real VM: Ctrl-C in the middle, full disks on either side. Nothing half-made
//! stays on the host, the error says what to do, and the next command makes it whole.

use std::fs;
use std::time::Duration;

use banger_tests::{Hold, Running, Sandbox, eventually, skipped, tree};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::workspaces::with_git;

const REPOSITORY: &str = "git init -q -b main app && cd app && git config user.name u && git config user.email u@example.org && \
    mkdir d && echo one > d/one && git add . && git commit -qm first && head -c 16000000 /dev/urandom > large";

const PATIENCE: Duration = Duration::from_secs(60);

/// As a terminal does it: who runs for the command gets it, too.
#[track_caller]
fn ctrl_c(running: &Running) {
    let group = Pid::from_raw(running.pid().cast_signed());
    killpg(group, Signal::SIGINT).expect("it runs");
}

#[test]
fn bad_moments_leave_nothing_half_made() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    with_git(&sandbox);
    sandbox.sh(REPOSITORY).ok();
    sandbox
        .sh(
            "git config --global user.name 'Ada A' && git config --global user.email ada@example.org && \
             banger-vm create --quiet --network none --disk 128M --name v git",
        )
        .ok();
    // A VM that stays knows from its start on whose commits are made in it.
    let name = exec(&sandbox, "git config --global user.name");
    assert_eq!(name, "Ada A\n");
    interrupted_prepares(&sandbox);
    full_guest(&sandbox);
    interrupted_export(&sandbox);
    full_host(&sandbox);
    no_room_for_a_copy(&sandbox);
}

fn exec(sandbox: &Sandbox, script: &str) -> String {
    sandbox
        .feed(
            "banger-vm exec --no-workspace v -- sh -e",
            script.as_bytes(),
        )
        .ok()
        .to_owned()
}

fn interrupted_prepares(sandbox: &Sandbox) {
    let hold = Hold::new();
    let first = sandbox.start(&format!(
        "exec env {} banger-ws prepare v app",
        hold.at("workspace.copy", 1)
    ));
    hold.wait();
    // Who waits for the first is not kept waiting.
    let second = sandbox.start("exec banger-ws prepare v app");
    second.wait_for_stderr("waiting for the lock `ws/");
    ctrl_c(&second);
    second.finish().exits(130).says("error: interrupted");
    ctrl_c(&first);
    hold.release();
    first.finish().exits(130).says("error: interrupted");
    assert_eq!(sandbox.sh("banger-ws list").record()["ready"], false);
    sandbox
        .sh("banger-ws diff v")
        .exits(1)
        .says("incomplete")
        .hints("banger-ws prepare v ");
    // What carried the files there has ended, and took its half of a file along.
    eventually("nothing is left there", PATIENCE, || {
        let left = exec(
            sandbox,
            "find /root/app -name '.banger-*'; ps -o args | grep -c '[a]gent workspace' || true",
        );
        (left == "0\n").then_some(())
    });
    sandbox.sh("banger-ws prepare v app").ok();
    same_trees(sandbox);
}

#[track_caller]
fn same_trees(sandbox: &Sandbox) {
    let copy = sandbox.path("guest");
    let _ = fs::remove_dir_all(&copy);
    sandbox
        .sh("mkdir guest && banger-vm exec --no-workspace v -- tar c -C /root/app . | tar x -C guest")
        .ok();
    let (here, there) = (tree(&sandbox.path("app")), tree(&copy));
    assert!(
        here == there,
        "{:?}, {:?}",
        here.keys().collect::<Vec<_>>(),
        there.keys().collect::<Vec<_>>()
    );
    let status = exec(
        sandbox,
        "cd /root/app; git status --porcelain; git log --format=%s",
    );
    let log = sandbox.sh("cd app && git status --porcelain && git log --format=%s -1");
    assert_eq!(status, log.ok());
}

fn full_guest(sandbox: &Sandbox) {
    exec(
        sandbox,
        "cd /root; dd if=/dev/zero of=spare bs=1M count=4; dd if=/dev/zero of=fill bs=1M || true; rm spare",
    );
    sandbox.sh("head -c 8000000 /dev/urandom > app/more").ok();
    let full = || {
        let full = sandbox.sh("banger-ws prepare v app");
        full.exits(1)
            .says("error: the disk of v is full: ")
            .says("No space left on device")
            .hints("banger-vm set v --disk SIZE");
        full
    };
    full().says("MiB are free");
    // The history is git's to write down.
    sandbox
        .sh("cd app && git add more && git commit -qm second")
        .ok();
    full().says("history");
    let packs = exec(
        sandbox,
        "ls /root/app/.git/objects/pack | grep -c tmp_ || true",
    );
    assert_eq!(packs, "0\n", "half a pack fills the disk");
    sandbox.sh("banger-vm set --quiet v --disk 256M").ok();
    sandbox.sh("banger-ws prepare v app").ok();
    same_trees(sandbox);
}

fn interrupted_export(sandbox: &Sandbox) {
    exec(
        sandbox,
        "cd /root/app; rm ../fill; dd if=/dev/zero of=zeros bs=1M count=64; echo changed > d/one",
    );
    let exporting = sandbox.start("exec banger-ws export v -o out.patch");
    let importers = || {
        let processes = sandbox.processes().into_iter();
        processes
            .filter(|(_, line)| line.contains("fast-import"))
            .count()
    };
    eventually("files arrive", PATIENCE, || (importers() > 0).then_some(()));
    ctrl_c(&exporting);
    exporting.finish().exits(130).says("error: interrupted");
    assert_eq!(importers(), 0);
    let patches = sandbox.sh("ls -A | grep patch");
    assert_eq!(patches.stdout, "");
    // Nothing was reviewed, so nothing can be applied.
    sandbox
        .sh("banger-ws apply v --worktree")
        .exits(2)
        .says("nothing of this workspace was reviewed");
    exec(sandbox, "rm /root/app/zeros");
    sandbox.sh("banger-ws export v -o out.patch").ok();
    let applied = sandbox.sh("git clone -q app clone && git -C clone apply --index ../out.patch && git -C clone status --porcelain");
    assert_eq!(applied.ok(), "M  d/one\n");
}

fn full_host(sandbox: &Sandbox) {
    exec(sandbox, "head -c 1000000 /dev/urandom > /root/app/noise");
    // In a mount namespace of its own.
    let small = |line: &str| {
        sandbox.sh(&format!(
            "mkdir -p small && unshare -m sh -c 'mount -t tmpfs -o size=256k tmpfs small && echo old > small/out && \
             {line}; status=$?; ls -A small; cat small/out; exit $status'"
        ))
    };
    for form in ["patch", "bundle"] {
        let full = small(&format!("banger-ws export v --as {form} -o small/out"));
        full.exits(1)
            .says("error: cannot write small/out")
            .says("space")
            .hints("df -h small");
        assert_eq!(full.stdout, "out\nold\n", "{full}");
    }
    // The store's own disk.
    let full = sandbox.sh(
        "export at=$(echo $PWD/store/vms/*/workspaces/*/scratch.git) && cp -a $at kept && unshare -m sh -c '\
         mount -t tmpfs -o size=$(($(du -sk kept | cut -f 1) + 400))k tmpfs $at && cp -a kept/. $at && \
         exec banger-ws export v -o out.patch'",
    );
    full.exits(1).says("space").hints("free some disk space");
    assert_eq!(
        sandbox.sh("grep -c noise out.patch").stdout,
        "0\n",
        "the patch of before stays"
    );
    sandbox
        .sh("banger-ws export v -o out.patch && grep -q noise out.patch")
        .ok();
}

/// A repository goes in past the host's disks: all places where a copy of it could lie meanwhile are too small.
fn no_room_for_a_copy(sandbox: &Sandbox) {
    sandbox
        .sh("git init -q -b main big && cd big && head -c 6000000 /dev/urandom > noise && git add . && git commit -qm big")
        .ok();
    sandbox
        .sh(
            "export at=$(echo $PWD/store/vms/*/workspaces) && unshare -m sh -c '\
             for place in $at /var/tmp /dev/shm; do mount -t tmpfs -o size=1m,mode=0700 tmpfs $place; done && \
             TMPDIR=$at exec banger-ws prepare --quiet --mode full v big'",
        )
        .ok();
    let there = exec(
        sandbox,
        "cd /root/big; wc -c < noise; git fsck --no-dangling; git status --porcelain",
    );
    assert_eq!(there, "6000000\n");
}
