//! `banger-vm run IMAGE ./repo -- COMMAND`: what the command left is kept, written or thrown away as asked, and
//! never lost by accident.

use std::fs;
use std::process::Command;

use banger_tests::{Sandbox, skipped};
use nix::sys::signal::Signal;

fn git(sandbox: &Sandbox, directory: &str, arguments: &[&str]) -> String {
    let output = sandbox_git(sandbox, directory).args(arguments).output();
    let output = output.expect("git runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sandbox_git(sandbox: &Sandbox, directory: &str) -> Command {
    let mut git = sandbox.command("git");
    git.arg("-C").arg(sandbox.path(directory));
    git.args(["-c", "user.name=A", "-c", "user.email=a@example.org"]);
    git
}

/// A repository `repo` with a file `a` in one commit.
fn repository() -> Sandbox {
    let sandbox = Sandbox::for_guests();
    fs::create_dir(sandbox.path("repo")).expect("the sandbox is new");
    git(&sandbox, "repo", &["init", "-q", "-b", "main"]);
    fs::write(sandbox.path("repo/a"), "one\n").expect("a file");
    git(&sandbox, "repo", &["add", "."]);
    git(&sandbox, "repo", &["commit", "-q", "-m", "first"]);
    sandbox
}

fn names(sandbox: &Sandbox) -> Vec<String> {
    let list = sandbox.sh("banger-vm list --json").records();
    let name = |vm: &serde_json::Value| vm["name"].as_str().unwrap_or_default().to_owned();
    list.iter().map(name).collect()
}

/// The patch of a VM that was kept, applied to a copy of the repository.
fn applied(sandbox: &Sandbox, patch: &str) -> String {
    let _ = fs::remove_dir_all(sandbox.path("copy"));
    let top = sandbox.path("");
    sandbox
        .sh(&format!("git clone -q {0}/repo {0}/copy", top.display()))
        .ok();
    sandbox
        .sh(&format!(
            "git -C copy apply --index {}",
            sandbox.path(patch).display()
        ))
        .ok();
    git(sandbox, "copy", &["status", "--porcelain"])
}

const RUN: &str = "banger-vm run --network none --memory 200M";

#[test]
fn a_command_that_changes_nothing_leaves_nothing() {
    if skipped("vm") {
        return;
    }
    let sandbox = repository();
    let ran = sandbox.sh(&format!(
        "{RUN} busybox ./repo -- sh -c 'pwd; cat a; exit 3'"
    ));
    ran.exits(3);
    assert_eq!(ran.stdout, "/root/repo\none\n", "{ran}");
    assert_eq!(names(&sandbox), [] as [&str; 0]);

    // What is thrown away is thrown away because somebody said so.
    let ran = sandbox.sh(&format!(
        "{RUN} --rm busybox ./repo -- sh -c 'echo two >> a'"
    ));
    ran.ok();
    assert_eq!(names(&sandbox), [] as [&str; 0]);

    sandbox
        .sh("git init -q theirs && mkdir theirs/in && chown -R 12345 theirs")
        .ok();
    // What is not there, or somebody else's, is said before anything is made.
    for (line, words, hint) in [
        (
            "busybox repo -- true",
            "`repo` is no path",
            "run busybox ./repo",
        ),
        ("busybox ./none -- true", "none", "git init"),
        ("busybox ./store -- true", "store", "git init"),
        (
            "busybox ./theirs/in -- true",
            "theirs belongs to another user",
            "safe.directory",
        ),
        ("--export x busybox -- true", "needs a repository", "./repo"),
        (
            "--export . busybox ./repo -- true",
            "is a directory",
            "--export FILE",
        ),
    ] {
        let wrong = sandbox.sh(&format!("{RUN} {line}"));
        wrong.exits(125).says(words).hints(hint);
    }
    let nowhere = sandbox.sh(&format!("{RUN} --export none/x busybox ./repo -- true"));
    nowhere.exits(125).says("none/x");
    let both = sandbox.sh(&format!("{RUN} --rm --export x busybox ./repo -- true"));
    both.exits(125).says("cannot be used with");
    assert_eq!(names(&sandbox), [] as [&str; 0]);
}

#[test]
fn changes_are_kept_until_somebody_gets_them() {
    if skipped("vm") {
        return;
    }
    let sandbox = repository();
    // Ctrl-C ends the command, not what it did.
    let work = "echo two >> a; echo new > b; echo ready; exec sleep 1000";
    let running = sandbox.start(&format!(
        "exec {RUN} --name work busybox ./repo -- sh -c '{work}'"
    ));
    running.wait_for_stdout("ready");
    running.signal(Signal::SIGINT);
    let ran = running.finish();
    ran.exits(130).says("2 files of the workspace changed");
    ran.says("banger-vm start work; banger-ws export work");
    assert_eq!(sandbox.vm("work")["state"], "stopped", "{ran}");
    sandbox.sh("banger-vm start work").ok();
    sandbox.sh("banger-ws export work > work.patch").ok();
    assert_eq!(applied(&sandbox, "work.patch"), "M  a\nA  b\n");
    sandbox.sh("banger-vm delete --force work").ok();

    // Nor does it lose anything when the command line itself is killed.
    let running = sandbox.start(&format!(
        "exec {RUN} --name killed busybox ./repo -- sh -c '{work}'"
    ));
    running.wait_for_stdout("ready");
    running.signal(Signal::SIGKILL);
    running.finish().exits(137);
    assert_eq!(sandbox.vm("killed")["state"], "running");
    // What sweeps behind killed commands leaves it alone.
    sandbox.sh("banger-vm prune").ok();
    sandbox.sh("banger-ws export killed > killed.patch").ok();
    assert_eq!(applied(&sandbox, "killed.patch"), "M  a\nA  b\n");
}

#[test]
fn a_patch_is_on_the_disk_before_the_vm_goes() {
    if skipped("vm") {
        return;
    }
    let sandbox = repository();
    fs::write(sandbox.path("out.patch"), "old").expect("a file");
    let ran = sandbox.sh(&format!(
        "{RUN} --export out.patch busybox ./repo -- sh -c 'echo two >> a; chmod +x a; exit 9'"
    ));
    ran.exits(9).says("out.patch");
    ran.says("look at M a: executable")
        .says("1 file changed; sha256:");
    assert_eq!(applied(&sandbox, "out.patch"), "M  a\n");
    assert_eq!(names(&sandbox), [] as [&str; 0]);

    // A patch that cannot be written keeps the VM, and is a failure although the command succeeded.
    fs::create_dir(sandbox.path("gone")).expect("a directory");
    let mut running = sandbox.start(&format!(
        "exec {RUN} --name kept --export gone/x busybox ./repo -- sh -c 'echo two >> a; echo ready; cat'"
    ));
    running.wait_for_stdout("ready");
    fs::remove_dir_all(sandbox.path("gone")).expect("the directory is there");
    running.close_stdin();
    let ran = running.finish();
    ran.exits(125).says("gone/x").says("could not be exported");
    ran.says("banger-vm start kept; banger-ws export kept");
    sandbox.sh("banger-vm start kept").ok();
    let again = sandbox.sh("banger-ws export kept");
    assert!(again.ok().contains("+two"), "{again}");
}
