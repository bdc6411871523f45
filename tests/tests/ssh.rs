//! Logging in by SSH with the distribution's client: statuses, streams, terminals, keys.

use std::fs;
use std::time::{Duration, Instant};

use banger_tests::{
    Compression, Entry, Image, Layer, Outcome, Sandbox, eventually, programs, skipped,
};

/// Whatever the load, nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(90);

/// ssh(1) by hand: no configuration, only the proxy.
const PLAIN: &str = "ssh -F none -o ProxyCommand='banger-vm ssh-proxy %h' -o IdentitiesOnly=yes \
                     -o GlobalKnownHostsFile=none -o UserKnownHostsFile=seen -o StrictHostKeyChecking=no";

/// A running VM `t` of busybox.
fn guest() -> Sandbox {
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --name t --network none busybox")
        .ok();
    sandbox
}

#[test]
fn people_log_in_and_run_commands() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest();
    // Connects and does not log in, until it is thrown out.
    let stranger = sandbox.start("exec banger-vm ssh-proxy t");
    stranger.wait_for_stdout("SSH-2.0-banger");
    let connected = Instant::now();
    commands(&sandbox);
    streams(&sandbox);
    lasting(&sandbox);
    terminals(&sandbox);
    floods(&sandbox);
    keys(&sandbox);
    proxy(&sandbox);
    // It has a minute.
    stranger.wait_for_end();
    assert!(connected.elapsed() >= Duration::from_secs(50));
    restarts(&sandbox);
}

/// Connections that are old: keys are agreed on anew, and a quiet one is known to be alive.
fn lasting(sandbox: &Sandbox) {
    sandbox.sh("head -c 3000000 /dev/urandom > much").ok();
    let local = sandbox.sh("sha256sum < much").ok().to_owned();
    let there = sandbox.sh(
        "banger-vm ssh -o RekeyLimit=256K -o LogLevel=DEBUG1 t -- 'tee /tmp/much | sha256sum' < much",
    );
    assert_eq!(there.ok(), local);
    let back = sandbox
        .sh("banger-vm ssh -o RekeyLimit=256K -o LogLevel=DEBUG1 t -- cat /tmp/much | sha256sum");
    assert_eq!(back.ok(), local);
    for direction in [&there, &back] {
        let agreements = direction
            .stderr
            .matches("SSH2_MSG_NEWKEYS received")
            .count();
        // The first, and one that must end before the client opens its window of 2 MiB again. How
        // many more there are depends on how much of the window is on its way meanwhile.
        assert!(
            agreements >= 2,
            "{agreements} agreements on keys: {direction}"
        );
    }
    // The client hangs up when one question in a second is not answered.
    let quiet = sandbox.sh(
        "banger-vm ssh -o ServerAliveInterval=1 -o ServerAliveCountMax=2 -o LogLevel=DEBUG3 t -- 'sleep 4; echo quiet'",
    );
    assert_eq!(quiet.ok(), "quiet\n");
    // SSH_MSG_REQUEST_FAILURE (RFC 4254, section 4): the question is answered, though nobody knows it.
    let answers = quiet.stderr.matches("receive packet: type 82").count();
    assert!(answers >= 2, "{answers} answers: {quiet}");
}

/// Dropbear as the image's own server.
#[test]
fn an_own_server_of_the_image_is_pinned_when_first_seen() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox.sh("ssh-keygen -q -t ed25519 -N '' -f key").ok();
    let public = fs::read(sandbox.path("key.pub")).expect("the sandbox is ours");
    let home = [
        Entry::Directory("etc/dropbear/".into(), 0o755),
        Entry::Directory("root/.ssh/".into(), 0o700),
        Entry::File("root/.ssh/authorized_keys".into(), 0o600, public),
        Entry::File("etc/shells".into(), 0o644, b"/bin/sh\n".to_vec()),
    ];
    let image = Image::busybox()
        .expect("busybox is installed")
        .with(programs(&["/usr/sbin/dropbear"]).expect("dropbear is installed"))
        .with(Layer::new(&home, Compression::Gzip).expect("entries can be packed"));
    image
        .write_archive(&sandbox.path("own.tar"), "own:latest")
        .expect("the sandbox is ours");
    sandbox
        .sh("banger-image import --quiet own.tar && banger-vm create --quiet --name d --network none own")
        .ok();
    let serve =
        "banger-vm exec d -- sh -c '/usr/sbin/dropbear -R -s -p 127.0.0.1:2222 -P /tmp/pid'";
    sandbox.sh(serve).ok();
    let ssh = |rest: &str| {
        sandbox.sh(&format!(
            "banger-vm ssh --guest-sshd=2222 -l root -o IdentityFile=key -o BatchMode=yes d -- {rest}"
        ))
    };
    eventually("the server answers", PATIENCE, || {
        (ssh("true").status == 0).then_some(())
    });
    let again = ssh("'echo $SSH_CONNECTION; cat /proc/$PPID/comm'");
    assert!(again.ok().ends_with("dropbear\n"), "{again}");
    assert_eq!(again.stderr, "", "it is known by now");
    // Another key: not the server that was seen.
    sandbox
        .sh("banger-vm exec d -- sh -c 'kill $(cat /tmp/pid); rm /etc/dropbear/*; touch /tmp/changed'")
        .ok();
    let refused = eventually("another server answers", PATIENCE, || {
        sandbox.sh(serve);
        let refused = ssh("touch /tmp/reached");
        refused
            .stderr
            .contains("HOST IDENTIFICATION HAS CHANGED")
            .then_some(refused)
    });
    refused.exits(255).says("Host key verification failed");
    sandbox
        .sh("banger-vm exec d -- test -e /tmp/reached")
        .exits(1);
    // The agent's own server has its own key, and is still there.
    sandbox.sh("banger-vm ssh d -- true").ok();
}

fn commands(sandbox: &Sandbox) {
    let ssh = |rest: &str| sandbox.sh(&format!("banger-vm ssh {rest}"));
    let both = ssh("t -- 'echo out; echo err >&2'");
    assert_eq!((both.ok(), &*both.stderr), ("out\n", "err\n"), "{both}");
    for (line, stdout) in [
        ("t -- 'echo $HOME; pwd'", "/root\n/root\n"),
        ("t -- 'echo $FROM_IMAGE $USER $SHELL'", "yes root /bin/sh\n"),
        (
            "t -- echo 'a  b' '*' '$HOME' \"it's\"",
            "a  b * $HOME it's\n",
        ),
        ("t -- 'echo a  b'", "a b\n"),
        (
            "--user guest t -- id",
            "uid=1000(guest) gid=1000(guest) groups=1000(guest),2000(extra)\n",
        ),
        ("-l 1000:2000 t -- id -g", "2000\n"),
        ("-l guest t -- 'echo $HOME; umask'", "/home\n0022\n"),
        ("T.VM -- hostname", "t\n"),
        // Nothing of ours is open in the command.
        ("t -- 'ls /proc/self/fd | wc -l'", "4\n"),
    ] {
        let outcome = ssh(line);
        assert_eq!(outcome.ok(), stdout, "{outcome}");
    }
    for (line, status) in [
        ("t -- true", 0),
        ("t -- 'exit 7'", 7),
        ("t -- 'exit 254'", 254),
        ("t -- no-such-command", 127),
        ("t -- /etc/not-executable", 126),
        // ssh(1) has one status for every signal.
        ("t -- 'kill -TERM $$'", 255),
        ("--user nobody-here t -- true", 255),
        ("no-such-vm -- true", 125),
        ("--no-such-flag t", 125),
    ] {
        ssh(line).exits(status);
    }
    ssh("-l guest t -- 'echo x > /etc/passwd'").exits(1);
    // What users may set, and what they may not.
    let sent = sandbox.sh(
        "LC_TIME=de_DE.UTF-8 LD_PRELOAD=/evil COLORTERM=truecolor banger-vm ssh \
         -o 'SendEnv=LC_* LD_PRELOAD COLORTERM' t -- 'echo $LC_TIME,$LD_PRELOAD,$COLORTERM'",
    );
    assert_eq!(sent.ok(), "de_DE.UTF-8,,truecolor\n", "{sent}");
    // No word of a configuration of the user's is read, unless it is named.
    fs::write(sandbox.path("other"), "Host *\n  LogLevel NOSUCH\n").expect("the sandbox is ours");
    ssh("-F other t -- true").exits(255).says("other");
    ssh("-F none -o LogLevel=NOSUCH t -- true")
        .exits(255)
        .says("NOSUCH");
}

fn streams(sandbox: &Sandbox) {
    sandbox.sh("head -c 20000000 /dev/urandom > random").ok();
    let local = sandbox.sh("sha256sum < random").ok().to_owned();
    for line in [
        "banger-vm ssh t -- sha256sum < random",
        "banger-vm ssh t -- cat < random | sha256sum",
        "banger-vm ssh t -- 'gzip -1 | gzip -d' < random | sha256sum",
    ] {
        let there = sandbox.sh(line);
        assert_eq!(there.ok(), local, "{there}");
    }
    // A little in, much out: neither direction waits for the other.
    sandbox
        .sh("head -c 60000000 /dev/zero | gzip -9 > zeros.gz")
        .ok();
    let many = sandbox.sh("banger-vm ssh t -- gzip -dc < zeros.gz | wc -c");
    assert_eq!(many.ok(), "60000000\n", "{many}");
    // Each word has its answer before the next one.
    let mut cat = sandbox.start("exec banger-vm ssh t -- cat");
    cat.write(b"ping\n");
    cat.wait_for_stdout("ping\n");
    cat.write(b"pong\n");
    cat.wait_for_stdout("pong\n");
    cat.finish().exits(0);
}

fn terminals(sandbox: &Sandbox) {
    sandbox
        .sh("banger-vm ssh t -- 'test -t 0 || test -t 1'")
        .exits(1);
    let mut shell = sandbox.start("script -qec 'banger-vm ssh t' /dev/null");
    shell.write(b"tty; echo $((6 * 7)) $SSH_TTY; exit 5\n");
    let shell = shell.finish();
    shell.exits(5);
    assert!(shell.stdout.contains("42 /dev/pts/"), "{shell}");

    // The guest's terminal follows ours.
    let trap = "trap \"stty size\" WINCH; echo ready; while :; do sleep 0.1; done";
    let mut resized = sandbox.start(&format!(
        "script -qec \"tty > name; exec banger-vm ssh -t t -- '{}'\" /dev/null",
        trap.replace('"', "\\\"")
    ));
    resized.wait_for_stdout("ready");
    sandbox.sh("stty -F $(cat name) rows 33 columns 101").ok();
    resized.wait_for_stdout("33 101");
    // The terminal's own character, in the guest.
    resized.write(b"\x03");
    resized.finish();

    // A client that is gone hangs up: the terminal's processes end, others live on.
    let left = sandbox.start(
        "exec script -qec \"exec banger-vm ssh -t t -- 'setsid sleep 7777 & echo \\$! > /tmp/lives; \
         echo \\$\\$ > /tmp/ends; echo ready; exec sleep 8888'\" /dev/null",
    );
    left.wait_for_stdout("ready");
    drop(left);
    let lives = |file: &str| {
        let script = format!("test -e /proc/$(cat /tmp/{file})");
        sandbox
            .sh(&format!("banger-vm exec t -- sh -c '{script}'"))
            .status
            == 0
    };
    eventually("the terminal hangs up", PATIENCE, || {
        (!lives("ends")).then_some(())
    });
    assert!(lives("lives"), "a process of its own session ended, too");
    sandbox
        .sh("banger-vm exec t -- sh -c 'kill $(cat /tmp/lives)'")
        .ok();
}

/// A command that takes no input, and a client that takes no output, hold up nobody but themselves.
fn floods(sandbox: &Sandbox) {
    let flood =
        sandbox.start("exec banger-vm ssh t -- 'echo $PPID; exec sleep 5555' < /dev/zero > server");
    let server = eventually("the flood has a server", PATIENCE, || {
        let pid = fs::read_to_string(sandbox.path("server")).ok()?;
        pid.strip_suffix('\n').map(str::to_owned)
    });
    let resident = || {
        let status = sandbox.sh(&format!(
            "banger-vm exec t -- grep VmRSS /proc/{server}/status"
        ));
        let kib = status
            .ok()
            .split_whitespace()
            .nth(1)
            .expect("the sandbox is ours")
            .parse::<u64>();
        kib.expect("the sandbox is ours") >> 10
    };
    // The server takes what fits, and then the client has to wait.
    eventually("the flood arrives", PATIENCE, || {
        (resident() >= 8).then_some(())
    });
    for _ in 0..3 {
        sandbox.sh("banger-vm ssh t -- true").ok();
        sandbox.sh("banger-vm exec t -- true").ok();
    }
    assert!(resident() < 48, "{} MiB", resident());
    drop(flood);
    eventually("the server ends with its client", PATIENCE, || {
        let there = sandbox.sh(&format!("banger-vm exec t -- test -e /proc/{server}"));
        (there.status == 1).then_some(())
    });
    // As with sshd, what has no terminal lives on.
    sandbox.sh("banger-vm exec t -- killall sleep").ok();
    // What a reader has stopped goes on when it does, and nothing is lost.
    let late = sandbox.sh(
        "banger-vm ssh t -- 'cat; echo end' < random | { head -c 1 > first; banger-vm ssh t -- true; cat first - | tail -c 4; }",
    );
    assert_eq!(late.ok(), "end\n", "{late}");
}

fn keys(sandbox: &Sandbox) {
    sandbox
        .sh("ssh-keygen -q -t ed25519 -N '' -f wrong; ssh-keygen -q -t ecdsa -N '' -f extra")
        .ok();
    let store = sandbox.store();
    let own = store.join("ssh/id_ed25519").display().to_string();
    sandbox.sh(&format!("{PLAIN} -i {own} root@t true")).ok();
    sandbox
        .sh(&format!("{PLAIN} -i wrong -o BatchMode=yes root@t true"))
        .exits(255)
        .says("Permission denied (publickey)");
    sandbox
        .sh(&format!("{PLAIN} -i {own} -o PreferredAuthentications=password,keyboard-interactive,none root@t true"))
        .exits(255)
        .says("Permission denied (publickey)");
    for file in ["ssh/id_ed25519", "ssh"] {
        let path = store.join(file);
        let mode = sandbox.sh(&format!("stat -c %a {}", path.display()));
        assert!(["600\n", "700\n"].contains(&mode.ok()), "{mode}");
    }
    // A guest with another key than its own is not talked to.
    let pinned = sandbox.vm_directory("t").join("ssh/known_hosts");
    let before = fs::read_to_string(&pinned).expect("the sandbox is ours");
    let (id, _) = before.split_once(' ').expect("the sandbox is ours");
    let other = fs::read_to_string(sandbox.path("wrong.pub")).expect("the sandbox is ours");
    fs::write(&pinned, format!("{id} {other}")).expect("the sandbox is ours");
    sandbox
        .sh("banger-vm ssh t -- touch /tmp/reached")
        .exits(255)
        .says("Host key verification failed");
    sandbox
        .sh("banger-vm exec t -- test -e /tmp/reached")
        .exits(1);
    fs::write(&pinned, before).expect("the sandbox is ours");
    sandbox.sh("banger-vm ssh t -- true").ok();
}

fn proxy(sandbox: &Sandbox) {
    // To a port of the guest's, with both ends of file.
    let _server = sandbox.start("exec banger-vm exec t -- nc -l -p 7000 -e sha256sum");
    let local = sandbox.sh("sha256sum < random").ok().to_owned();
    let answer = eventually("the guest listens", PATIENCE, || {
        let answer = sandbox.sh("banger-vm ssh-proxy --port 7000 t.vm < random");
        (answer.status == 0).then_some(answer.stdout)
    });
    assert_eq!(answer, local);
    sandbox
        .sh("banger-vm ssh-proxy --port 7001 t")
        .exits(1)
        .says("TCP port 7001")
        .hints("banger-vm exec");
    sandbox
        .sh("banger-vm ssh-proxy nobody")
        .exits(3)
        .says("nobody");
}

fn restarts(sandbox: &Sandbox) {
    sandbox.sh("banger-vm stop t").ok();
    for line in ["banger-vm ssh t -- true", "banger-vm ssh-proxy t"] {
        let refused = sandbox.sh(line);
        refused.says("t is not running").hints("banger-vm start t");
        assert_ne!(refused.status, 0);
    }
    sandbox
        .sh("BANGER_VM_AUTHORIZED_KEYS=/no/such/file banger-vm start t")
        .exits(2)
        .says("/no/such/file");
    // As a VM of a banger that knew no keys: it gets one now; and a key of the user's comes along.
    fs::remove_dir_all(sandbox.vm_directory("t").join("ssh")).expect("the sandbox is ours");
    sandbox
        .sh("BANGER_VM_AUTHORIZED_KEYS=$PWD/extra.pub banger-vm start t")
        .ok();
    sandbox.sh("banger-vm ssh t -- true").ok();
    sandbox.sh(&format!("{PLAIN} -i extra root@t.vm true")).ok();
    let no_client = sandbox.sh("b=$(command -v banger-vm); PATH=/nowhere; \"$b\" ssh t");
    no_client.exits(125).hints("openssh-client");

    // A VM of the same name is another VM, and nobody is frightened.
    sandbox.sh("banger-vm delete --force t").ok();
    sandbox
        .sh("banger-vm create --name t --network none busybox")
        .ok();
    let again = sandbox.sh("banger-vm ssh t -- echo again");
    assert_eq!((again.ok(), &*again.stderr), ("again\n", ""), "{again}");
}

#[test]
fn an_image_that_is_one_program_has_ssh_and_sftp() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let program = fs::read("/bin/busybox").expect("the sandbox is ours");
    let entry = Entry::File("busybox".into(), 0o755, program);
    let mut image = Image::new(vec![
        Layer::new(&[entry], Compression::Gzip).expect("the sandbox is ours"),
    ]);
    image.config = serde_json::json!({"Cmd": ["/busybox", "true"]});
    image
        .write_archive(&sandbox.path("one.tar"), "one:latest")
        .expect("the sandbox is ours");
    sandbox
        .sh("banger-image import one.tar && banger-vm create --name o --network none one")
        .ok();
    let ssh = |rest: &str| -> Outcome { sandbox.sh(&format!("banger-vm ssh o -- {rest}")) };
    assert_eq!(ssh("/busybox echo 'a  b' c").ok(), "a  b c\n");
    assert_eq!(ssh("\"/busybox echo 'a  b' c\"").ok(), "a  b c\n");
    ssh("'/busybox true | /busybox cat'")
        .exits(127)
        .says("/bin/sh");
    ssh("/no/such").exits(127).says("/no/such");
    sandbox.sh("banger-vm ssh o").exits(127).says("/bin/sh");
    sandbox
        .sh("banger-vm ssh-config > config; echo data > file")
        .ok();
    sandbox.sh("printf 'put file /file\\nchmod 600 /file\\nget /file back\\n' | sftp -F config -b - o.vm").ok();
    sandbox.sh("cmp file back").ok();
    let listed = ssh("/busybox ls -l /file");
    assert!(listed.ok().starts_with("-rw-------"), "{listed}");
}
