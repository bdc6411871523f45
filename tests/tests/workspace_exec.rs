//! What a running VM with a workspace does by itself: commands run there, changes are shown, keys, identity
//! and files are given. One guest for all of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use banger_tests::{Sandbox, skipped};
use serde_json::Value;

/// Stands in for mise: it writes down what it was asked, and fails when it is to.
const MISE: &str = r#"#!/bin/sh
case "$1" in
  --version) echo 1; exit ;;
  exec) shift 2; MISE=on exec "$@" ;;
esac
echo "$PWD: mise $*" >> /tmp/mise.calls
[ ! -e /tmp/mise.fails ] || { echo no such tool >&2; exit 7; }
"#;

fn git(sandbox: &Sandbox, line: &str) {
    sandbox
        .sh(&format!(
            "git -C repo -c user.name=A -c user.email=a@example.org {line}"
        ))
        .ok();
}

/// A running VM `w` with the repository `repo` at /root/repo.
fn workspace() -> Sandbox {
    let sandbox = Sandbox::for_guests();
    let at = |name: &str| sandbox.path(name);
    fs::create_dir_all(at("repo/src")).expect("the sandbox is new");
    git(&sandbox, "init -q -b main");
    fs::write(at("repo/src/a"), "one\n").expect("a file");
    fs::write(at("repo/.gitignore"), "target/\n").expect("a file");
    git(&sandbox, "add .");
    git(&sandbox, "commit -q -m first");
    fs::write(at("home/.gitconfig"), "[user]\nname = Ada \"A\" O'Neil\n").expect("a file");
    fs::write(at("home/settings"), "mine\n").expect("a file");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(at("home/settings"), private).expect("the file is there");
    sandbox
        .sh(
            "BANGER_VM_FILE_SYNC='~/settings:~/.config/deep/settings,~/settings:/etc/mine' \
             banger-vm create --name w --network none --memory 300M busybox",
        )
        .ok();
    sandbox.sh("banger-ws prepare w repo").ok();
    sandbox
}

#[test]
fn a_workspace_is_where_things_happen() {
    if skipped("vm") {
        return;
    }
    let sandbox = workspace();
    files(&sandbox);
    identity(&sandbox);
    keys(&sandbox);
    directory(&sandbox);
    stale(&sandbox);
    tools(&sandbox);
    real_tools(&sandbox);
    watch(&sandbox);
}

fn exec(sandbox: &Sandbox, rest: &str) -> String {
    sandbox
        .sh(&format!("banger-vm exec {rest}"))
        .ok()
        .to_owned()
}

fn files(sandbox: &Sandbox) {
    let found = exec(
        sandbox,
        "w -- stat -c '%a %n' /root/.config/deep/settings /etc/mine",
    );
    assert_eq!(found, "600 /root/.config/deep/settings\n600 /etc/mine\n");
    let content = exec(sandbox, "w -- cat /root/.config/deep/settings");
    assert_eq!(content, "mine\n");

    // What leads out of the home keeps a VM from being made, and the file from going.
    symlink("/etc/passwd", sandbox.path("home/out")).expect("a link");
    let refused =
        sandbox.sh("BANGER_VM_FILE_SYNC='~/out' banger-vm create --name never --no-start busybox");
    refused
        .exits(1)
        .says("leads out of your home")
        .hints("config show");
    let refused = sandbox.sh("BANGER_VM_FILE_SYNC='~/out' banger-ws sync-keys w");
    refused.exits(1).says("leads out of your home");
    sandbox
        .sh("BANGER_VM_FILE_SYNC='elsewhere' banger-vm list")
        .ok();
    let refused = sandbox.sh("BANGER_VM_FILE_SYNC='elsewhere' banger-vm create --no-start busybox");
    assert!(refused.status != 0);
    refused.says("`elsewhere` is neither");
    assert_eq!(sandbox.sh("banger-vm list --json").records().len(), 1);

    fs::write(sandbox.path("home/settings"), "changed\n").expect("a file");
    let synced =
        sandbox.sh("BANGER_VM_FILE_SYNC='~/settings:/etc/mine,~/none' banger-ws sync-keys w");
    assert_eq!(synced.record()["files"], 1);
    synced.says("none is not there");
    assert_eq!(exec(sandbox, "w -- cat /etc/mine"), "changed\n");
}

fn identity(sandbox: &Sandbox) {
    let sync = || sandbox.sh("banger-ws sync-keys w").record()["identity"].clone();
    assert_eq!(sync(), "no-git");
    // The host's own git, with what it is linked to, where the image's PATH finds it.
    sandbox
        .sh("git=$(command -v git); tar ch \"$git\" $(ldd \"$git\" | grep -o '/[^ ]*') 2>/dev/null | \
             banger-vm exec --no-workspace w -- tar x -C /; \
             banger-vm exec w -- ln -sf $git /bin/git")
        .ok();
    exec(
        sandbox,
        "w -- sh -c 'printf \"[core]\\n\\tpager = cat\\n\" > /root/.gitconfig'",
    );
    assert_eq!(sync(), "set");
    let config = || exec(sandbox, "--no-workspace w -- git config --global --list");
    assert_eq!(config(), "core.pager=cat\nuser.name=Ada A O'Neil\n");
    // What the guest's user has chosen stays, and what is missing is added.
    exec(sandbox, "w -- git config --global user.name Somebody");
    let own = "[user]\nname = Ada\nemail = ada@example.org\n";
    fs::write(sandbox.path("home/.gitconfig"), own).expect("a file");
    assert_eq!(sync(), "set");
    assert_eq!(
        config(),
        "core.pager=cat\nuser.name=Somebody\nuser.email=ada@example.org\n"
    );
    assert_eq!(sync(), "kept");
}

fn keys(sandbox: &Sandbox) {
    sandbox
        .sh("ssh-keygen -q -t ed25519 -N '' -f key && ssh-keygen -q -t ed25519 -N '' -f other")
        .ok();
    let log_in = || {
        sandbox.sh(
            "ssh -F none -i key -o ProxyCommand='banger-vm ssh-proxy %h' -o IdentitiesOnly=yes \
             -o UserKnownHostsFile=seen -o StrictHostKeyChecking=no -o BatchMode=yes root@w echo in",
        )
    };
    log_in().exits(255).says("Permission denied");
    let key = sandbox.path("key.pub");
    let with = |keys: &str| {
        let line = format!("BANGER_VM_AUTHORIZED_KEYS='{keys}' banger-ws sync-keys w");
        sandbox.sh(&line).record()["keys"].clone()
    };
    assert_eq!(with(&key.display().to_string()), 2);
    assert_eq!(log_in().ok(), "in\n");
    // Who is no longer named is no longer let in; the store's own key always is.
    assert_eq!(with(""), 1);
    log_in().exits(255).says("Permission denied");
    assert_eq!(sandbox.sh("banger-vm ssh w -- echo own").ok(), "own\n");
}

fn directory(sandbox: &Sandbox) {
    for (line, at) in [
        ("w -- pwd", "/root/repo\n"),
        ("-w /tmp w -- pwd", "/tmp\n"),
        ("--no-workspace w -- pwd", "/\n"),
    ] {
        assert_eq!(exec(sandbox, line), at, "{line}");
    }
    // A workspace that somebody removed says what to do.
    exec(sandbox, "w -- mv /root/repo /root/moved");
    let lost = sandbox.sh("banger-vm exec w -- pwd");
    lost.exits(125).says("/root/repo").hints("--no-workspace");
    exec(sandbox, "--no-workspace w -- mv /root/moved /root/repo");
}

fn stale(sandbox: &Sandbox) {
    let quiet = sandbox.sh("banger-vm exec w -- cat src/a");
    assert_eq!((quiet.ok(), &*quiet.stderr), ("one\n", ""), "{quiet}");
    fs::write(sandbox.path("repo/src/a"), "two\n").expect("a file");
    git(sandbox, "commit -q -a -m second");
    let warned = sandbox.sh("banger-vm exec w -- cat src/a");
    assert_eq!(warned.ok(), "one\n");
    warned.says("repo is at").says("--auto-prepare");
    let synced = sandbox.sh("banger-vm exec --auto-prepare w -- cat src/a");
    assert_eq!(synced.ok(), "two\n", "{synced}");
    let quiet = sandbox.sh("banger-vm exec w -- true");
    assert_eq!((quiet.ok(), &*quiet.stderr), ("", ""), "{quiet}");
}

fn tools(sandbox: &Sandbox) {
    let calls = || {
        let calls = exec(
            sandbox,
            "--no-workspace w -- sh -c 'cat /tmp/mise.calls; rm /tmp/mise.calls'",
        );
        calls.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let ours = "w -- sh -c 'echo ${MISE:-off}'";
    fs::write(sandbox.path("repo/mise.toml"), "[tools]\n").expect("a file");
    git(sandbox, "add .");
    git(sandbox, "commit -q -m tools");
    // Without mise in the guest, nothing is said and nothing is changed.
    let plain = sandbox.sh(&format!("banger-vm exec --auto-prepare {ours}"));
    assert_eq!((plain.ok(), &*plain.stderr), ("off\n", ""), "{plain}");
    let more = sandbox.sh(&format!("banger-vm -v exec {ours}"));
    more.says("no mise");

    let script = "w -- sh -c 'cat > /bin/mise; chmod +x /bin/mise'";
    sandbox
        .feed(
            &format!("banger-vm exec --no-workspace {script}"),
            MISE.as_bytes(),
        )
        .ok();
    let first = sandbox.sh(&format!("banger-vm exec {ours}"));
    assert_eq!(first.ok(), "on\n");
    first.says("installing the tools").says("mise.log");
    let again = sandbox.sh(&format!("banger-vm exec {ours}"));
    assert_eq!((again.ok(), &*again.stderr), ("on\n", ""), "{again}");
    assert_eq!(
        calls(),
        ["/root/repo: mise trust --all", "/root/repo: mise install"]
    );
    let without = format!("--no-bootstrap {ours}");
    assert_eq!(exec(sandbox, &without), "off\n");

    // Once more when the file changes, wherever; and what fails says where it is written down.
    exec(
        sandbox,
        "w -- sh -c 'echo a = 1 >> mise.toml; touch /tmp/mise.fails'",
    );
    let failed = sandbox.sh(&format!("banger-vm exec {ours}"));
    failed
        .exits(125)
        .says("status 7: no such tool")
        .hints("mise.log");
    exec(sandbox, "--no-workspace w -- rm /tmp/mise.fails");
    assert_eq!(exec(sandbox, ours), "on\n");
    // A failure of the test before is in the list, too: it was asked to trust as well.
    assert_eq!(calls().len(), 4);
    exec(
        sandbox,
        "--no-bootstrap w -- sh -c 'rm -f mise.toml /bin/mise'",
    );
}

/// mise itself, with its libraries, where its installer puts it: it takes the repository's file for trusted, installs
/// what needs no network, and runs commands in what the file says.
fn real_tools(sandbox: &Sandbox) {
    sandbox
        .sh(&format!(
            "mise={} && tar ch $mise $(ldd $mise | grep -o '/[^ ]*') 2>/dev/null | \
             banger-vm exec --no-workspace w -- tar x -C / && \
             banger-vm exec --no-workspace w -- sh -ec 'mkdir -p /root/.local/bin; mv '$mise' /root/.local/bin/mise'",
            sandbox.fixtures().mise().canonicalize().expect("it was downloaded").display()
        ))
        .ok();
    let config = "[env]\nBY_MISE = \"{{config_root}}\"\n[tools]\n";
    fs::write(sandbox.path("repo/mise.toml"), config).expect("a file");
    git(sandbox, "add .");
    git(sandbox, "commit -q -m really");
    // The guest's was removed.
    sandbox.sh("banger-ws prepare --force w repo").ok();
    let ours = "w -- sh -c 'echo ${BY_MISE:-nothing}'";
    let first = sandbox.sh(&format!("banger-vm exec {ours}"));
    assert_eq!(first.ok(), "/root/repo\n", "{first}");
    first.says("installing the tools");
    let log = sandbox.sh("cat store/vms/*/workspaces/*/mise.log");
    for line in ["mise trust --all\n", "mise install\n"] {
        assert!(log.ok().contains(line), "{log}");
    }
    let again = sandbox.sh(&format!("banger-vm exec {ours}"));
    assert_eq!(
        (again.ok(), &*again.stderr),
        ("/root/repo\n", ""),
        "{again}"
    );
    // What it cannot install it says, and the command does not run.
    sandbox
        .feed(
            "banger-vm exec --no-bootstrap w -- sh -c 'cat > mise.toml'",
            b"[tools]\n\"no:such\" = \"1\"\n",
        )
        .ok();
    let failed = sandbox.sh(&format!("banger-vm exec {ours}"));
    failed.exits(125).says("mise install").hints("mise.log");
    assert_eq!(failed.stdout, "", "{failed}");
    exec(
        sandbox,
        "--no-bootstrap w -- sh -c 'rm -r mise.toml /root/.local/bin'",
    );
}

fn watch(sandbox: &Sandbox) {
    let watching = sandbox.start("exec banger-ws watch --json w");
    watching.wait_for_stderr("watching");
    // While nothing changes it does nothing: who makes a system call that blocks gives the processor up, and
    // who sleeps in one never does.
    let quiet = exec(
        sandbox,
        "--no-workspace w -- sh -ec 'cd /proc/$(ps -o pid,args | awk \"/[b]anger-agent watch/ {print \\$1}\"); look() { grep ctxt status; cat syscall; }; \
            look; sleep 2; look'",
    );
    let looks: Vec<&str> = quiet.lines().collect();
    assert_eq!(looks.len(), 6, "{quiet}");
    assert_eq!(looks[..3], looks[3..], "it does not sleep");
    // Together, so that the file that moves is seen before it does.
    exec(
        sandbox,
        "w -- sh -c 'echo 22 > src/new; mkdir -p target/x; echo x > target/x/y'",
    );
    watching.wait_for_stdout("src/new");
    exec(
        sandbox,
        "w -- sh -c 'mv src/new src/newer; chmod 755 src/a; rm .gitignore; mkdir -p deep/er; echo > deep/er/z'",
    );
    watching.wait_for_stdout("deep/er/z");
    exec(
        sandbox,
        "w -- sh -c 'printf \"%s\\n\" last > \"$(printf \"odd\\n\\033name\")\"'",
    );
    watching.wait_for_stdout("odd");
    watching.signal(nix::sys::signal::Signal::SIGINT);
    let ended = watching.finish();
    let records: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect();
    let found = |path: &str| {
        let mut found = records.iter().filter(|record| record["path"] == path);
        let one = found
            .next()
            .unwrap_or_else(|| panic!("no {path} in {ended}"));
        (one["change"].as_str().unwrap_or_default().to_owned(), one)
    };
    assert!(records.iter().all(|record| record["kind"] == "watch"));
    assert_eq!(found("src/new").0, "added");
    assert_eq!(found("src/new").1["new_size"], 3);
    assert_eq!(found("src/newer").0, "renamed");
    assert_eq!(found("src/newer").1["from"], "src/new");
    assert_eq!(found("src/a").0, "mode");
    assert_eq!(found("src/a").1["new_mode"], "0755");
    assert_eq!(found(".gitignore").0, "removed");
    assert_eq!(found("deep/er/z").0, "added");
    assert_eq!(found("odd\n\u{1b}name").0, "added");
    assert!(!ended.stdout.contains("target/"), "{ended}");

    // A flood is told by its number, and nobody's memory grows: it comes at once, however slow the guest.
    let watching = sandbox.start("exec banger-ws watch --json w");
    watching.wait_for_stderr("watching");
    exec(
        sandbox,
        "w -- sh -c 'mkdir /root/f; cd /root/f; for i in $(seq 1 4000); do : > $i; done; mv /root/f /root/repo'",
    );
    watching.wait_for_stdout("\"more\"");
    watching.signal(nix::sys::signal::Signal::SIGINT);
    watching.finish();
    let small = sandbox.sh("banger-ws watch --limit 100 w");
    small.exits(1).says("more than 100 files");
}
