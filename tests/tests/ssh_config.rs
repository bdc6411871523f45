//! `banger-vm ssh-config`: the user's own ssh, scp, sftp and rsync reach VMs by name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use banger_tests::{Image, Sandbox, eventually, programs, skipped};

/// Whatever the load, nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn one_line_comes_and_goes() {
    let sandbox = Sandbox::prepared();
    let directory = sandbox.path("home/.ssh");
    let config = directory.join("config");
    let install = || sandbox.sh("banger-vm ssh-config --install");
    let remove = || sandbox.sh("banger-vm ssh-config --remove");

    // Nothing was there, and nothing is afterwards.
    install().ok();
    let text = fs::read_to_string(&config).expect("the sandbox is ours");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("Include \"/"), "{text}");
    install().exits(0).says("already");
    assert_eq!(
        fs::read_to_string(&config).expect("the sandbox is ours"),
        text
    );
    remove().ok();
    assert!(!directory.exists());
    remove().ok();

    // A dotfile manager's, with a mode and an odd end.
    let mine = "Host a\n\tUser b\r\n# no end of line";
    fs::create_dir(&directory).expect("the sandbox is ours");
    fs::write(sandbox.path("dotfile"), mine).expect("the sandbox is ours");
    fs::set_permissions(sandbox.path("dotfile"), fs::Permissions::from_mode(0o644))
        .expect("the sandbox is ours");
    std::os::unix::fs::symlink("../../dotfile", &config).expect("the sandbox is ours");
    install().ok();
    assert!(config.is_symlink());
    let text = fs::read_to_string(&config).expect("the sandbox is ours");
    assert!(text.ends_with(&format!("\n{mine}")), "{text}");
    // ssh(1) agrees: the line is for VMs only, and the rest is as it was.
    let seen = |host: &str| {
        sandbox
            .sh(&format!("ssh -G -F home/.ssh/config {host}"))
            .ok()
            .to_owned()
    };
    let vm = seen("dev.vm");
    assert!(
        vm.contains("ssh-proxy -- '%h'") || vm.contains("ssh-proxy -- 'dev.vm'"),
        "{vm}"
    );
    assert!(vm.contains("user root\n"), "{vm}");
    let other = seen("a");
    assert!(
        other.contains("user b\n") && !other.contains("ssh-proxy"),
        "{other}"
    );
    for odd in ["\"x'y.vm\"", "vm", "dev.vm.example"] {
        // Newer clients refuse such a name themselves.
        let odd = sandbox.sh(&format!("ssh -G -F home/.ssh/config {odd}"));
        assert!(!odd.stdout.contains("ssh-proxy"), "{odd}");
    }
    remove().ok();
    assert!(config.is_symlink());
    assert_eq!(
        fs::read_to_string(&config).expect("the sandbox is ours"),
        mine
    );
    let mode = fs::metadata(&config)
        .expect("the sandbox is ours")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o644);

    // What is the user's own about VMs is said.
    fs::remove_file(&config).expect("the sandbox is ours");
    fs::write(&config, "Host *.vm\n  User me\n").expect("the sandbox is ours");
    fs::write(directory.join("known_hosts"), "dev.vm ssh-ed25519 AAAA\n")
        .expect("the sandbox is ours");
    install()
        .exits(0)
        .says("config:2 is about VMs")
        .says("known_hosts:1 is about VMs");
    remove().ok();
    sandbox
        .sh("env -u HOME banger-vm ssh-config --install")
        .exits(1)
        .hints("ssh-config");
    // Printed, nothing changes.
    let printed = sandbox.sh("banger-vm ssh-config");
    assert!(printed.ok().contains("\nHost *.vm "), "{printed}");
    assert_eq!(
        fs::read_to_string(&config).expect("the sandbox is ours"),
        "Host *.vm\n  User me\n"
    );
}

/// A VM `dev` with rsync, scp and the tools of key agents, and the configuration in place.
fn guest() -> Sandbox {
    let sandbox = Sandbox::for_guests();
    let tools = programs(&["/usr/bin/rsync", "/usr/bin/scp", "/usr/bin/ssh-add"])
        .expect("the sandbox is ours");
    let mut image = Image::busybox().expect("the sandbox is ours").with(tools);
    image.config = serde_json::json!({"Env": ["PATH=/bin:/usr/bin"]});
    image
        .write_archive(&sandbox.path("tools.tar"), "tools:latest")
        .expect("the sandbox is ours");
    sandbox.sh("banger-image import tools.tar").ok();
    sandbox
        .sh("banger-vm create --name dev --network none tools")
        .ok();
    sandbox.sh("banger-vm ssh-config --install").ok();
    sandbox
}

#[test]
fn the_users_own_tools_reach_vms_by_name() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest();
    let said = sandbox.sh("ssh -F home/.ssh/config dev.vm 'id -un; hostname'");
    assert_eq!((said.ok(), &*said.stderr), ("root\ndev\n", ""), "{said}");
    let other = sandbox.sh("ssh -F home/.ssh/config guest@dev.vm id -un");
    assert_eq!(other.ok(), "guest\n", "{other}");
    transfers(&sandbox);
    copies(&sandbox);
    trees(&sandbox);
    masters(&sandbox);
    agents(&sandbox);
    // A VM that is gone is said to be, by us.
    sandbox
        .sh("ssh -F home/.ssh/config nobody.vm true")
        .exits(255)
        .says("nobody");
    // Another key than the one that the store has for it.
    sandbox.sh("ssh-keygen -q -t ed25519 -N '' -f other").ok();
    let key = sandbox.vm_directory("dev").join("ssh/host_key");
    fs::copy(sandbox.path("other"), &key).expect("the sandbox is ours");
    sandbox
        .sh("ssh -F home/.ssh/config dev.vm true")
        .exits(255)
        .says("Host key verification failed");
}

fn transfers(sandbox: &Sandbox) {
    sandbox.sh("head -c 20000000 /dev/urandom > big; mkdir tree; for i in $(seq 300); do echo $i > tree/$i; done").ok();
    fs::write(
        sandbox.path("batch"),
        "put -p big /root/big\nmkdir /root/d\nrename /root/big /root/d/moved\nln -s moved /root/d/link\n\
         ln /root/d/moved /root/d/hard\nchmod 640 /root/d/moved\nput -r tree /root/tree\n\
         get -p /root/d/link back\nget -r /root/tree tree-back\nls -la /root/d\ndf /root\npwd\n",
    )
    .expect("the sandbox is ours");
    sandbox.sh("touch -d @1600000000 big").ok();
    let done = sandbox.sh("sftp -F home/.ssh/config -b batch dev.vm");
    assert!(
        done.ok().contains("Remote working directory: /root\n"),
        "{done}"
    );
    assert!(
        done.stdout.contains("moved") && done.stdout.contains("root"),
        "{done}"
    );
    sandbox.sh("cmp big back && diff -r tree tree-back").ok();
    let there =
        sandbox.sh("banger-vm exec dev -- stat -c '%a %Y %h %N' /root/d/moved /root/d/link");
    let there = there.ok();
    assert!(there.starts_with("640 1600000000 2 "), "{there}");
    assert!(
        there.contains("-> 'moved'") || there.contains("-> moved"),
        "{there}"
    );
    // Goes on where it ended.
    sandbox
        .sh("banger-vm exec dev -- truncate -s 5000000 /root/d/moved")
        .ok();
    sandbox
        .sh("echo 'reput big /root/d/moved' | sftp -F home/.ssh/config -b - dev.vm")
        .ok();
    let sum = sandbox.sh("sha256sum < big").ok().to_owned();
    let there = sandbox.sh("banger-vm exec dev -- sha256sum < /dev/null /root/d/moved");
    assert_eq!(there.ok().split(' ').next(), sum.split(' ').next());
    for (request, says) in [
        ("rm /root/none", "No such file"),
        ("mkdir /root/d", "Failure"),
        ("rename /root/none /root/x", "No such file"),
        ("get /root/none", "not found"),
    ] {
        let failed = sandbox.sh(&format!(
            "echo '{request}' | sftp -F home/.ssh/config -b - dev.vm"
        ));
        failed.exits(1);
        assert!(failed.stderr.contains(says), "{request}: {failed}");
    }
    // Somebody else's files stay so.
    sandbox
        .sh("echo 'put big /root/no' | sftp -F home/.ssh/config -b - guest@dev.vm")
        .exits(1)
        .says("ermission denied");
}

fn copies(sandbox: &Sandbox) {
    for flag in ["", "-O"] {
        sandbox
            .sh("rm -rf copied; banger-vm exec dev -- rm -rf /root/copy")
            .ok();
        sandbox
            .sh(&format!(
                "scp {flag} -q -r -p -F home/.ssh/config tree dev.vm:copy"
            ))
            .ok();
        sandbox
            .sh(&format!(
                "scp {flag} -q -r -p -F home/.ssh/config dev.vm:copy copied"
            ))
            .ok();
        sandbox.sh("diff -r tree copied").ok();
    }
}

fn trees(sandbox: &Sandbox) {
    sandbox.sh("ln -s 1 tree/soft; ln tree/2 tree/hard; chmod 751 tree/3; mkdir -p tree/a/b; touch 'tree/a/ü \"x'").ok();
    let rsync = |rest: &str| {
        sandbox.sh(&format!(
            "rsync -aH --itemize-changes -e 'ssh -F home/.ssh/config' {rest}"
        ))
    };
    assert_ne!(rsync("tree/ dev.vm:synced").ok(), "");
    let second = rsync("tree/ dev.vm:synced");
    assert_eq!(second.ok(), "", "the second run sends nothing");
    rsync("dev.vm:synced/ round").ok();
    let local = sandbox.sh("rsync -aHn --itemize-changes --delete tree/ round");
    assert_eq!(local.ok(), "", "{local}");
}

fn masters(sandbox: &Sandbox) {
    let socket = sandbox.runtime().join("m").display().to_string();
    let master = sandbox.start(&format!(
        "exec ssh -F home/.ssh/config -M -S {socket} -N dev.vm"
    ));
    let ssh = |rest: &str| sandbox.sh(&format!("ssh -F home/.ssh/config -S {socket} {rest}"));
    eventually("the master is there", PATIENCE, || {
        (ssh("-O check dev.vm").status == 0).then_some(())
    });
    let server = |outcome: &banger_tests::Outcome| outcome.ok().to_owned();
    let (first, second) = (
        server(&ssh("dev.vm 'echo $PPID'")),
        server(&ssh("dev.vm 'echo $PPID'")),
    );
    assert_eq!(first, second, "one connection serves both");
    assert_ne!(
        server(&sandbox.sh("banger-vm ssh dev -- 'echo $PPID'")),
        first
    );
    ssh("-O exit dev.vm").exits(0);
    master.finish();
}

fn agents(sandbox: &Sandbox) {
    let socket = sandbox.runtime().join("a").display().to_string();
    let _agent = sandbox.start(&format!("exec ssh-agent -D -a {socket}"));
    sandbox
        .sh("ssh-keygen -q -t ed25519 -N '' -C lent -f lent")
        .ok();
    eventually("the agent takes a key", PATIENCE, || {
        let added = sandbox.sh(&format!("SSH_AUTH_SOCK={socket} ssh-add -q lent"));
        (added.status == 0).then_some(())
    });
    let public = fs::read_to_string(sandbox.path("lent.pub")).expect("the sandbox is ours");
    let listed = sandbox.sh(&format!(
        "SSH_AUTH_SOCK={socket} banger-vm ssh -A dev -- ssh-add -L"
    ));
    assert_eq!(listed.ok(), public);
    let without = sandbox.sh("banger-vm ssh dev -- 'ssh-add -L; ls /tmp'");
    assert!(
        !without.stdout.contains("ssh-"),
        "nothing of it stays: {without}"
    );
}
