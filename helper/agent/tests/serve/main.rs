//! The agent in serve mode, driven by the host's client through a monitor made for the test.
#![allow(clippy::unwrap_used)]

mod harness;
mod monitor;
mod services;
mod ssh;
mod watch;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use banger_wire::agent::{Call, Request, kind};
use banger_wire::frame;
use harness::Harness;
use lib_guest::{
    CallErrorKind, Command, Control, Error, Exec, Exit, Guest, Io, Outcome, Sink, TerminalSize,
};

fn sh(script: &str) -> Exec {
    argv(&["/bin/sh", "-c", script])
}

fn argv(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|s| (*s).to_owned()).collect(),
        ..Exec::default()
    }
}

struct Ran {
    outcome: Outcome,
    out: String,
    err: String,
}

fn run(guest: &Guest, exec: Exec) -> Result<Ran, Error> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let io = Io {
        stdout: Sink::Writer(&mut out),
        stderr: Sink::Writer(&mut err),
        timeout: Some(Duration::from_secs(60)),
        ..Io::default()
    };
    let outcome = guest.exec(exec, io)?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok(Ran {
        outcome,
        out: text(out),
        err: text(err),
    })
}

/// Waits until a file that a guest command writes has content.
fn wait_for_content(path: &std::path::Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text,
            _ if Instant::now() > deadline => panic!("{} stayed empty", path.display()),
            _ => std::thread::yield_now(),
        }
    }
}

fn wait_until_dead(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let stat = format!("/proc/{}/stat", pid.trim());
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "{pid} lives");
        std::thread::yield_now();
    }
}

#[test]
fn every_exit_status_and_signal_comes_back() {
    let harness = Harness::new();
    let guest = harness.guest();
    for code in 0..=255u8 {
        let ran = run(&guest, sh(&format!("exit {code}"))).unwrap();
        assert_eq!(ran.outcome, Outcome::Exited(Exit::Code(code)));
    }
    for signal in [1u8, 2, 9, 11, 15] {
        let ran = run(&guest, sh(&format!("kill -{signal} $$"))).unwrap();
        assert_eq!(ran.outcome, Outcome::Exited(Exit::Signal(signal)));
        assert_eq!(ran.outcome.status(), 128 + signal);
    }
}

#[test]
fn output_streams_stay_apart_and_the_environment_is_ours() {
    let harness = Harness::new();
    let guest = harness.guest();
    let exec = Exec {
        env: vec![("A".into(), "1".into()), ("A".into(), "2 3".into())],
        cwd: Some("/usr".into()),
        ..sh("echo out $A; pwd; echo err >&2; echo $HOME $USER $PATH; cat")
    };
    let ran = run(&guest, exec).unwrap();
    assert_eq!(ran.err, "err\n");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(ran.out, format!("out 2 3\n/usr\n/root root {path}\n"));
    assert_eq!(ran.outcome.status(), 0);
}

#[test]
fn commands_that_cannot_run_say_why() {
    let harness = Harness::new();
    let guest = harness.guest();
    let directory = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::OpenOptionsExt;
        let path = directory.path().join(name);
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create(true)
            .mode(0o755)
            .open(&path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let no_format = script("no-format", "echo hi");
    let no_interpreter = script("no-interpreter", "#!/no/such/interpreter\n");
    let good = script("good", "#!/bin/sh\necho good\n");
    assert_eq!(run(&guest, argv(&[&good])).unwrap().out, "good\n");
    let cases: [(Exec, u8, &str); 9] = [
        (
            argv(&["no-such-command"]),
            127,
            "no such command in the guest: no-such-command",
        ),
        (
            argv(&["/no/such"]),
            127,
            "no such command in the guest: /no/such",
        ),
        (
            argv(&["/etc"]),
            126,
            "/etc cannot be executed: it is a directory",
        ),
        (argv(&["/etc/passwd"]), 126, "no execute bit"),
        (argv(&[&no_format]), 126, "exec format error"),
        (
            argv(&[&no_interpreter]),
            126,
            "needs /no/such/interpreter, which is not in the guest",
        ),
        (
            Exec {
                user: Some("nobody-here".into()),
                ..sh("true")
            },
            125,
            "no such user in the guest: nobody-here",
        ),
        (
            Exec {
                cwd: Some("/no/such".into()),
                ..sh("true")
            },
            125,
            "no such directory in the guest: /no/such",
        ),
        (argv(&["/bin/echo", "a\0b"]), 125, "zero byte"),
    ];
    for (exec, status, message) in cases {
        let error = run(&guest, exec).map(|r| r.outcome).unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn other_users_run_with_their_own_ids() {
    if !nix::unistd::geteuid().is_root() {
        // Changing users needs root; the unprivileged part is in the other tests.
        return;
    }
    let harness = Harness::new();
    let exec = |user: &str| Exec {
        user: Some(user.into()),
        ..sh("id -u; id -g; id -G; echo $HOME")
    };
    let ran = run(&harness.guest(), exec("12345:54321")).unwrap();
    assert_eq!(ran.out, "12345\n54321\n54321\n/\n");
    let ran = run(&harness.guest(), exec("root")).unwrap();
    assert!(ran.out.starts_with("0\n0\n0"), "{}", ran.out);
}

#[test]
fn much_input_comes_out_unchanged() {
    let harness = Harness::new();
    let (mut input, mut output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut block = vec![0u8; 1 << 20];
    let mut state = 1u64;
    for _ in 0..64 {
        for byte in &mut block {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        input.write_all(&block).unwrap();
    }
    input.rewind().unwrap();
    let io = Io {
        stdin: Some(input.as_fd()),
        stdout: Sink::Fd(output.as_fd()),
        ..Io::default()
    };
    assert_eq!(
        harness.guest().exec(argv(&["cat"]), io).unwrap().status(),
        0
    );
    input.rewind().unwrap();
    output.rewind().unwrap();
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    input.read_to_end(&mut sent).unwrap();
    output.read_to_end(&mut received).unwrap();
    assert_eq!(sent.len(), 64 << 20);
    assert!(sent == received);
}

#[test]
fn input_is_read_no_further_than_the_command_reads() {
    let harness = Harness::new();
    let mut input = tempfile::tempfile().unwrap();
    input.set_len(64 << 20).unwrap();
    let io = Io {
        stdin: Some(input.as_fd()),
        ..Io::default()
    };
    let outcome = harness
        .guest()
        .exec(argv(&["head", "-c", "1"]), io)
        .unwrap();
    assert_eq!(outcome.status(), 0);
    assert!(input.stream_position().unwrap() <= 512 * 1024);
    let mut untouched = tempfile::tempfile().unwrap();
    untouched.write_all(b"x").unwrap();
    untouched.rewind().unwrap();
    let io = Io {
        stdin: Some(untouched.as_fd()),
        ..Io::default()
    };
    harness
        .guest()
        .exec(argv(&["no-such-command"]), io)
        .unwrap_err();
    assert_eq!(untouched.stream_position().unwrap(), 0);
}

#[test]
fn a_timeout_ends_the_command_even_a_stubborn_one() {
    let harness = Harness::new();
    for script in ["sleep 100", "trap '' TERM; sleep 100 & wait; wait"] {
        let begun = Instant::now();
        let io = Io {
            timeout: Some(Duration::from_millis(200)),
            ..Io::default()
        };
        let outcome = harness.guest().exec(sh(script), io).unwrap();
        assert_eq!((outcome, outcome.status()), (Outcome::TimedOut, 124));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

/// Has each wish at once.
struct Script {
    descriptor: File,
    commands: Vec<Command>,
}

impl Control for Script {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn next_command(&mut self) -> std::io::Result<Option<Command>> {
        Ok(self.commands.pop())
    }
}

fn immediately(commands: Vec<Command>) -> Script {
    // A regular file always polls readable.
    Script {
        descriptor: tempfile::tempfile().unwrap(),
        commands,
    }
}

#[test]
fn a_signal_overtakes_input_that_nobody_reads() {
    let harness = Harness::new();
    let input = tempfile::tempfile().unwrap();
    input.set_len(64 << 20).unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    struct OnOutput(File);
    impl Control for OnOutput {
        fn descriptor(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
        fn next_command(&mut self) -> std::io::Result<Option<Command>> {
            match self.0.read(&mut [0; 64]) {
                Ok(n) => Ok((n > 0).then_some(Command::Signal(2))),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    let mut control = OnOutput(reader.into());
    let mut output = File::from(writer);
    let io = Io {
        stdin: Some(input.as_fd()),
        stdout: Sink::Writer(&mut output),
        control: Some(&mut control),
        timeout: Some(Duration::from_secs(60)),
        ..Io::default()
    };
    let outcome = harness
        .guest()
        .exec(sh("echo go; exec sleep 100"), io)
        .unwrap();
    assert_eq!(outcome, Outcome::Exited(Exit::Signal(2)));
}

#[test]
fn a_terminal_has_a_size_a_name_and_one_output() {
    let harness = Harness::new();
    let size = TerminalSize {
        rows: 33,
        columns: 101,
    };
    let exec = Exec {
        terminal: Some(size),
        ..sh("stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo all; echo $TERM; exit 7")
    };
    let ran = run(&harness.guest(), exec).unwrap();
    let lines: Vec<&str> = ran.out.split("\r\n").collect();
    assert_eq!(lines[0], "33 101");
    assert!(lines[1].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[2..], ["all", "xterm-256color", ""]);
    assert_eq!(ran.outcome.status(), 7);
}

#[test]
fn a_terminal_is_resized_and_hears_the_end_of_input() {
    let harness = Harness::new();
    let on_terminal = |exec| Exec {
        terminal: Some(TerminalSize {
            rows: 1,
            columns: 1,
        }),
        ..exec
    };
    let input = tempfile::tempfile().unwrap();
    let io = Io {
        stdin: Some(input.as_fd()),
        timeout: Some(Duration::from_secs(60)),
        ..Io::default()
    };
    let outcome = harness
        .guest()
        .exec(on_terminal(argv(&["cat"])), io)
        .unwrap();
    assert_eq!(outcome.status(), 0);
    let size = TerminalSize {
        rows: 44,
        columns: 55,
    };
    let mut control = immediately(vec![Command::Resize(size)]);
    let io = Io {
        control: Some(&mut control),
        timeout: Some(Duration::from_secs(60)),
        ..Io::default()
    };
    let script = "while [ \"$(stty size)\" != '44 55' ]; do :; done; exit 3";
    let outcome = harness.guest().exec(on_terminal(sh(script)), io).unwrap();
    assert_eq!(outcome.status(), 3);
}

#[test]
fn a_client_that_vanishes_takes_its_command_along() {
    let harness = Harness::new();
    let directory = tempfile::tempdir().unwrap();
    for (name, script) in [
        ("plain", "echo $$ > FILE; sleep 100 & wait"),
        (
            "stubborn",
            "trap '' HUP; echo $$ > FILE; while :; do sleep 1; done",
        ),
    ] {
        let file = directory.path().join(name);
        let script = script.replace("FILE", file.to_str().unwrap());
        let mut stream = harness.guest().dial(banger_wire::port::AGENT).unwrap();
        let call = Call {
            protocol: banger_wire::PROTOCOL,
            request: Request::Exec(sh(&script)),
        };
        frame::write(&mut stream, kind::CALL, &serde_json::to_vec(&call).unwrap()).unwrap();
        let pid = wait_for_content(&file);
        drop(stream);
        wait_until_dead(&pid);
    }
}

#[test]
fn an_agent_that_dies_is_a_lost_connection() {
    let mut harness = Harness::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 100", file.display());
    std::thread::scope(|scope| {
        let guest = harness.guest();
        let running = scope.spawn(move || run(&guest, sh(&script)).map(|r| r.outcome));
        let pid = wait_for_content(&file);
        harness.kill();
        let error = running.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::ConnectionLost), "{error}");
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
}

#[test]
fn fifty_commands_at_once_keep_their_output() {
    let harness = Harness::new();
    std::thread::scope(|scope| {
        for n in 0..50 {
            let guest = harness.guest();
            scope.spawn(move || {
                let ran = run(&guest, sh(&format!("sleep 0.2; echo {n}; exit {n}"))).unwrap();
                assert_eq!((ran.out, ran.outcome.status()), (format!("{n}\n"), n));
            });
        }
    });
}

#[test]
fn a_stalled_client_stops_nobody_else() {
    let harness = Harness::new();
    let mut stalled = harness.guest().dial(banger_wire::port::AGENT).unwrap();
    let call = Call {
        protocol: banger_wire::PROTOCOL,
        request: Request::Exec(argv(&["cat", "/dev/zero"])),
    };
    frame::write(
        &mut stalled,
        kind::CALL,
        &serde_json::to_vec(&call).unwrap(),
    )
    .unwrap();
    for _ in 0..20 {
        let ran = run(&harness.guest(), sh("head -c 1000000 /dev/zero | wc -c")).unwrap();
        assert_eq!(ran.out, "1000000\n");
    }
}

#[test]
fn a_grandchild_that_keeps_the_output_does_not_keep_the_caller() {
    let harness = Harness::new();
    for terminal in [
        None,
        Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
    ] {
        let begun = Instant::now();
        let exec = Exec {
            terminal,
            ..sh("trap '' HUP; sleep 100 & head -c 60000 /dev/zero | tr '\\0' x; exit 4")
        };
        let ran = run(&harness.guest(), exec).unwrap();
        assert_eq!((ran.out.len(), ran.outcome.status()), (60000, 4));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_closed_output_ends_an_endless_command() {
    let harness = Harness::new();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let io = Io {
        stdout: Sink::Fd(writer.as_fd()),
        ..Io::default()
    };
    let outcome = harness.guest().exec(argv(&["yes"]), io).unwrap();
    assert_eq!((outcome, outcome.status()), (Outcome::OutputClosed, 141));
}

#[test]
fn garbage_on_a_stream_is_answered_and_hurts_nobody() {
    let harness = Harness::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[1, 2, 0, 0, 0, b'{', b'}'],
        &[9, 0, 0, 0, 0],
        &[1, 255, 255, 255, 255],
    ] {
        let mut stream = harness.guest().dial(banger_wire::port::AGENT).unwrap();
        stream.write_all(garbage).unwrap();
        let frame = frame::read(&mut stream).unwrap().unwrap();
        assert_eq!(frame.kind, kind::ERROR);
    }
    assert_eq!(
        run(&harness.guest(), sh("exit 5"))
            .unwrap()
            .outcome
            .status(),
        5
    );
}

#[test]
fn ports_that_nobody_serves_are_refused() {
    let harness = Harness::new();
    let error = harness.guest().dial(9).unwrap_err();
    assert!(matches!(error, Error::Refused { port: 9, .. }), "{error}");
    assert_eq!(error.status(), 125);
}

#[test]
fn the_agent_reports_itself_ready_and_ends_when_told() {
    let mut harness = Harness::new();
    let event = harness
        .events
        .recv_timeout(Duration::from_secs(60))
        .unwrap();
    let event: lib_guest::Event = serde_json::from_slice(&event).unwrap();
    assert!(matches!(event, lib_guest::Event::Ready { protocol: 1, .. }));
    let info = harness.guest().info().unwrap();
    assert!(info.memory_total > info.memory_available && info.memory_available > 0);
    harness.guest().shutdown(Duration::from_secs(1)).unwrap();
    assert!(harness.wait().success());
}

#[test]
fn a_guest_that_shuts_down_takes_no_more_commands() {
    let harness = Harness::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!(
        "trap '' TERM HUP; echo $$ > {}; while :; do sleep 1; done",
        file.display()
    );
    std::thread::scope(|scope| {
        let guest = harness.guest();
        scope.spawn(move || run(&guest, sh(&script)).map(|r| r.outcome));
        let pid = wait_for_content(&file);
        harness
            .guest()
            .shutdown(Duration::from_millis(500))
            .unwrap();
        match run(&harness.guest(), sh("true")) {
            Err(Error::Call(error)) => assert_eq!(error.kind, CallErrorKind::Failed),
            Err(_) => {}
            Ok(ran) => panic!("ran: {:?}", ran.outcome),
        }
        wait_until_dead(&pid);
    });
}
