//! Commands in a guest: streams, environment, users, statuses, signals, networks.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use banger_tests::{Sandbox, eventually, skipped};
use nix::sys::signal::Signal;

/// A running VM `t` of busybox.
fn guest(flags: &str) -> Sandbox {
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh(&format!("banger-vm create --name t {flags} busybox"))
        .ok();
    sandbox
}

#[test]
fn a_command_has_separate_streams_an_environment_a_directory_and_a_user() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest("--network none");
    let exec = |rest: &str| sandbox.sh(&format!("banger-vm exec {rest}"));

    let both = exec("t -- sh -c 'echo out; echo err >&2'");
    assert_eq!(
        (both.ok(), both.stderr.as_str()),
        ("out\n", "err\n"),
        "{both}"
    );

    for (line, stdout) in [
        ("t -- pwd", "/\n"),
        ("-w /tmp t -- pwd", "/tmp\n"),
        ("t -- sh -c 'echo $FROM_IMAGE'", "yes\n"),
        (
            "-e FROM_IMAGE=no -e B='x y' t -- sh -c 'echo \"$FROM_IMAGE,$B\"'",
            "no,x y\n",
        ),
        (
            "-e HOME t -- sh -c 'echo $HOME'",
            &format!("{}\n", sandbox.path("home").display()),
        ),
        (
            "-u guest t -- id",
            "uid=1000(guest) gid=1000(guest) groups=1000(guest),2000(extra)\n",
        ),
        ("-u 1000:2000 t -- id -g", "2000\n"),
        ("-u guest t -- sh -c 'echo $HOME'", "/home\n"),
        ("t -- echo '' 'a  b' '*' '$HOME' \"'\"", " a  b * $HOME '\n"),
        ("t -- printf 'a\\nb'", "a\nb"),
        ("t -- true", ""),
        // The host's environment stays on the host.
        ("t -- sh -c 'echo ${BANGER_STORE:-none}'", "none\n"),
        ("t -- sh -c 'cat; echo end' < /dev/null", "end\n"),
        ("-N t -- sh -c 'cat; echo end' < /etc/passwd", "end\n"),
        ("t -- cat /proc/1/comm", "init\n"),
        ("t -- hostname", "t\n"),
        (
            "t -- sh -c 'grep -c \"^overlay / overlay rw\" /proc/mounts'",
            "1\n",
        ),
    ] {
        let outcome = exec(line);
        assert_eq!(outcome.ok(), stdout, "{outcome}");
    }
    exec("-u nobody-here t -- true")
        .exits(125)
        .says("nobody-here");
    exec("-w /no/such t -- true").exits(125).says("/no/such");
    // Users who are not root are really not.
    exec("-u guest t -- sh -c 'echo x > /etc/passwd'").exits(1);
}

#[test]
fn standard_input_reaches_the_command_to_the_byte() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest("--network none");
    let twelve = sandbox.feed("banger-vm exec t -- wc -c", b"twelve bytes");
    assert_eq!(twelve.ok(), "12\n");

    sandbox.sh("head -c 20000000 /dev/urandom > random").ok();
    let local = sandbox.sh("sha256sum < random").ok().to_owned();
    let there = sandbox.sh("banger-vm exec t -- sha256sum < random");
    assert_eq!(there.ok(), local, "{there}");
    let back = sandbox.sh("banger-vm exec t -- cat < random | sha256sum");
    assert_eq!(back.ok(), local, "{back}");

    // A conversation: neither side waits for the end of the other.
    let mut cat = sandbox.start("banger-vm exec t -- cat");
    cat.write(b"ping\n");
    cat.wait_for_stdout("ping\n");
    cat.write(b"pong\n");
    cat.wait_for_stdout("pong\n");
    cat.finish().exits(0);

    // A command that reads nothing does not wait for input, nor does a closed pipe keep it.
    let mut unread = sandbox.start("banger-vm exec t -- echo done");
    unread.wait_for_stdout("done\n");
    let mut input = vec![0; 1 << 20];
    input.fill(b'x');
    unread.close_stdin();
    unread.finish().exits(0);
    let head = sandbox.sh("banger-vm exec t -- yes | head -n 1");
    assert_eq!((head.ok(), head.stderr.as_str()), ("y\n", ""), "{head}");
    let yes = || sandbox.sh("banger-vm exec t -- pidof yes").status == 1;
    eventually(
        "`yes` ends with its reader",
        Duration::from_secs(60),
        || yes().then_some(()),
    );
}

#[test]
fn the_status_is_the_commands_own() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest("--network none");
    for (line, status) in [
        ("t -- true", 0),
        ("t -- false", 1),
        ("t -- sh -c 'exit 7'", 7),
        ("t -- sh -c 'exit 255'", 255),
        ("t -- sh -c 'kill -TERM $$'", 128 + 15),
        ("t -- sh -c 'kill -KILL $$'", 128 + 9),
        ("t -- sh -c 'kill -SEGV $$'", 128 + 11),
        ("t -- no-such-command", 127),
        ("t -- /no/such/file", 127),
        ("t -- /etc/not-executable", 126),
        ("t -- /etc", 126),
        ("--timeout 1 t -- sleep 1000", 124),
        ("no-such-vm -- true", 125),
        ("--no-such-flag t -- true", 125),
        ("--user", 125),
    ] {
        sandbox.sh(&format!("banger-vm exec {line}")).exits(status);
    }
    sandbox
        .sh("banger-vm exec t -- no-such-command")
        .says("no-such-command");
    sandbox
        .sh("banger-vm exec t -- /etc/not-executable")
        .says("/etc/not-executable");
    sandbox.sh("banger-vm exec t -- pidof sleep").exits(1);
    // The status of the first that fails, when there are many.
    sandbox
        .sh("banger-vm list | banger-vm exec -- sh -c 'exit 5'")
        .exits(5);
    sandbox.sh("banger-vm stop t").ok();
    sandbox
        .sh("banger-vm exec t -- true")
        .exits(125)
        .says("t is not running")
        .hints("banger-vm start t");
}

#[test]
fn signals_reach_the_command() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest("--network none");
    for (name, signal) in [
        ("INT", Signal::SIGINT),
        ("TERM", Signal::SIGTERM),
        ("HUP", Signal::SIGHUP),
        ("QUIT", Signal::SIGQUIT),
    ] {
        let trap = format!(
            "banger-vm exec t -- sh -c \
             'trap \"echo got {name}; exit 3\" {name}; echo ready; while :; do sleep 0.05; done'"
        );
        let command = sandbox.start(&format!("exec {trap}"));
        command.wait_for_stdout("ready\n");
        command.signal(signal);
        let outcome = command.finish();
        assert_eq!(outcome.exits(3).stdout, format!("ready\ngot {name}\n"));
    }
    // Without a handler, the command dies of it, and we say so as shells do.
    let sleep = sandbox.start("exec banger-vm exec t -- sh -c 'echo ready; exec sleep 1000'");
    sleep.wait_for_stdout("ready\n");
    sleep.signal(Signal::SIGINT);
    sleep.finish().exits(130);

    // A client that is killed takes its command along.
    let orphan = sandbox.start("exec banger-vm exec t -- sh -c 'echo ready; exec sleep 1000'");
    orphan.wait_for_stdout("ready\n");
    orphan.signal(Signal::SIGKILL);
    orphan.finish().exits(137);
    eventually(
        "the command ends with its client",
        Duration::from_secs(60),
        || (sandbox.sh("banger-vm exec t -- pidof sleep").status == 1).then_some(()),
    );
}

#[test]
fn orphans_are_reaped_and_commands_run_side_by_side() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest("--network none");
    // Each of the 100 loses its parent at once and ends soon after.
    let orphans = "for i in $(seq 100); do (sleep 0.2 &); done";
    sandbox
        .sh(&format!("banger-vm exec t -- sh -c '{orphans}'"))
        .ok();
    let zombies = "banger-vm exec t -- sh -c 'cat /proc/[0-9]*/stat | grep -c \") Z \"'";
    eventually("no zombie is left", Duration::from_secs(60), || {
        let sleeping = sandbox.sh("banger-vm exec t -- pidof sleep").status == 0;
        let zombies = sandbox.sh(zombies).stdout;
        (!sleeping && zombies == "0\n").then_some(())
    });

    let commands: Vec<_> = (0..8)
        .map(|number| {
            let mut command = sandbox.start("banger-vm exec t -- sh -c 'read n; exit $n'");
            command.write(format!("{number}\n").as_bytes());
            command
        })
        .collect();
    for (number, command) in commands.into_iter().enumerate() {
        command.finish().exits(i32::try_from(number).unwrap());
    }
}

#[test]
fn a_terminal_is_given_on_request() {
    if skipped("vm") {
        return;
    }
    let sandbox = guest("--network none");
    let plain = sandbox.sh("banger-vm exec t -- sh -c 'test -t 0 || test -t 1'");
    plain.exits(1);
    // `script` gives the client a terminal of its own.
    let shown = sandbox.sh(
        "script -qec \"stty rows 33 cols 99; banger-vm exec --tty t -- sh -c 'test -t 0 && test -t 1 && stty size && exit 9'\" /dev/null",
    );
    shown.exits(9);
    assert!(shown.stdout.contains("33 99"), "{shown}");

    let mut shell = sandbox.start("script -qec 'banger-vm exec t' /dev/null");
    shell.write(b"echo $((6 * 7)) > /dev/console; tty; exit 5\n");
    let shell = shell.finish();
    shell.exits(5);
    assert!(shell.stdout.contains("/dev/pts/"), "{shell}");
}

#[test]
fn the_user_network_reaches_the_hosts_loopback_and_none_has_no_device() {
    if skipped("vm") {
        return;
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in server.incoming().flatten() {
            // The request is not looked at; the client may go away.
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the host\n");
        }
    });
    let sandbox = guest("--network user");
    let wget = format!("wget -q -O - http://10.0.2.2:{port}/");
    let got = sandbox.sh(&format!("banger-vm exec t -- {wget}"));
    assert_eq!(got.ok(), "from the host\n", "{got}");
    let resolver = sandbox.sh("banger-vm exec t -- cat /etc/resolv.conf");
    assert!(resolver.ok().contains("nameserver 10.0.2.3"), "{resolver}");
    let hosts = sandbox.sh("banger-vm exec t -- cat /etc/hosts");
    assert!(hosts.ok().contains("localhost"), "{hosts}");

    let run = sandbox.sh("banger-vm run --network none busybox -- ls /sys/class/net");
    assert_eq!(run.ok(), "lo\n", "{run}");
}
