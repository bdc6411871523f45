//! Whatever is behind the socket, the client ends in time, with an error that says what happened.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use banger_wire::agent::kind;
use banger_wire::frame;
use banger_wire::watch::CHANGES;
use lib_guest::{
    CallErrorKind, Command, Control, CopyIn, CopyOptions, Error, Exec, Guest, Io, Outcome, Watch,
};

/// Nothing that is answered takes so long, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that lets `serve` talk to whoever connects.
fn guest(serve: impl Fn(UnixStream) + Send + 'static) -> (Guest, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    (Guest::new(path).answer_timeout(PATIENCE), directory)
}

/// Says `bytes` and then keeps the connection open until the client closes it.
fn says(bytes: Vec<u8>) -> impl Fn(UnixStream) {
    move |mut stream| {
        let _ = stream.write_all(&bytes);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

fn frames(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = b"OK 3\n".to_vec();
    for (kind, payload) in frames {
        frame::encode(&mut bytes, *kind, payload);
    }
    bytes
}

fn command() -> Exec {
    Exec {
        argv: vec!["true".to_owned()],
        ..Exec::default()
    }
}

#[test]
fn only_ok_opens_a_stream() {
    for (answer, expected) in [
        (&b"OK\n"[..], "guest refused port 1024: OK"),
        (b"OK x\n", "guest refused port 1024: OK x"),
        (b"\x1b[2Jno\n", "guest refused port 1024: \u{fffd}[2Jno"),
        (&[b'x'; 100_000], "guest refused port 1024: xxx"),
    ] {
        let (guest, _directory) = guest(says(answer.to_vec()));
        let error = guest.exec(command(), Io::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.status(), 125);
    }
    for answer in [&b"OK 3"[..], b""] {
        let (guest, _directory) = guest(says(answer.to_vec()));
        let guest = guest.answer_timeout(Duration::from_millis(300));
        let begun = Instant::now();
        let error = guest.exec(command(), Io::default()).unwrap_err();
        let expected = "did not answer within 0.3 s";
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.status(), 125);
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn a_closed_door_is_told_from_a_missing_one() {
    let (closing, _directory) = guest(drop);
    assert!(matches!(
        closing.info(),
        Err(Error::Refused { .. } | Error::ConnectionLost)
    ));
    let error = Guest::new("/no/such/agent.sock").info().unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[test]
fn an_answer_byte_by_byte_does_not_extend_the_deadline() {
    let (guest, _directory) = guest(|mut stream| {
        while stream.write_all(b"x").is_ok() {
            // Not a wait for anything: the guest trickles.
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let guest = guest.answer_timeout(Duration::from_millis(300));
    let begun = Instant::now();
    assert!(matches!(guest.info(), Err(Error::NoAnswer(_))));
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn frames_against_the_protocol_are_refused() {
    let started: (u8, &[u8]) = (kind::STARTED, br#"{"pid":7}"#);
    let cases: [&[(u8, &[u8])]; 8] = [
        &[(kind::STDOUT, b"early")],
        &[(kind::EXIT, br#"{"code":0}"#)],
        &[started, started],
        &[started, (kind::STDIN_CREDIT, &[1, 0, 0, 0])],
        &[started, (kind::STDIN_CREDIT, &[1])],
        &[started, (kind::EXIT, br#"{"code":256}"#)],
        &[started, (kind::CALL, b"")],
        &[(kind::ERROR, b"not json")],
    ];
    for case in cases {
        let (guest, _directory) = guest(says(frames(case)));
        let error = guest.exec(command(), Io::default()).unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{case:?}: {error}");
    }
    let (guest, _directory) = guest(says(b"OK 3\n\x43\xff\xff\xff\xff".to_vec()));
    assert!(matches!(
        guest.exec(command(), Io::default()),
        Err(Error::Protocol(_))
    ));
    assert!(matches!(guest.info(), Err(Error::Protocol(_))));
}

#[test]
fn noise_never_panics_and_never_hangs() {
    let mut state = 7u64;
    for _ in 0..50 {
        let mut bytes = b"OK 3\n".to_vec();
        for _ in 0..200 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            bytes.push((state >> 60) as u8 + if state & 1 == 0 { 60 } else { 0 });
        }
        let (guest, _directory) = guest(says(bytes));
        let guest = guest.answer_timeout(Duration::from_millis(300));
        guest.exec(command(), Io::default()).unwrap_err();
    }
}

#[test]
fn a_started_command_whose_connection_ends_is_lost() {
    let bytes = frames(&[(kind::STARTED, br#"{"pid":7}"#)]);
    let (guest, _directory) = guest(move |mut stream| stream.write_all(&bytes).unwrap());
    let error = guest.exec(command(), Io::default()).unwrap_err();
    assert!(matches!(error, Error::ConnectionLost), "{error}");
    assert_eq!(error.status(), 255);
}

#[test]
fn a_silent_command_is_bounded_by_the_timeout_even_when_kills_are_ignored() {
    let (guest, _directory) = guest(says(frames(&[(kind::STARTED, br#"{"pid":7}"#)])));
    let guest = guest.answer_timeout(Duration::from_secs(3));
    let begun = Instant::now();
    let io = Io {
        timeout: Some(Duration::from_millis(50)),
        ..Io::default()
    };
    assert_eq!(guest.exec(command(), io).unwrap(), Outcome::TimedOut);
    assert!(begun.elapsed() < PATIENCE);
}

/// A caller whose signal arrives while nobody answers.
struct Signalled(std::io::PipeReader, Option<Command>);

impl Control for Signalled {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn next_command(&mut self) -> std::io::Result<Option<Command>> {
        Ok(self.1.take())
    }
}

#[test]
fn a_signal_gives_up_on_a_monitor_that_does_not_answer() {
    let (guest, _directory) = guest(says(Vec::new()));
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let mut control = Signalled(reader, Some(Command::Signal(2)));
    let io = Io {
        control: Some(&mut control),
        ..Io::default()
    };
    let error = guest.exec(command(), io).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert_eq!(error.status(), 130);
}

#[test]
fn a_copy_that_fails_at_once_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, vec![7; 3 << 20]).unwrap();
    let failed = br#"{"kind":"failed","message":"cannot open x: Permission denied"}"#;
    let bytes = frames(&[(kind::STARTED, br#"{"pid":3}"#), (kind::ERROR, failed)]);
    let drains = says(bytes.clone());
    // What it is sent is taken, or refused by a closed connection.
    let hangs_up = move |mut stream: UnixStream| {
        let _ = stream.write_all(&bytes);
        let _ = stream.read_exact(&mut [0; 200]);
    };
    let serving: [Box<dyn Fn(UnixStream) + Send>; 2] = [Box::new(drains), Box::new(hangs_up)];
    for serve in serving {
        let (guest, _directory) = guest(serve);
        let source = CopyIn::Paths(std::slice::from_ref(&file));
        let copied = guest.copy_in(source, b"/x", &CopyOptions::default(), &mut |_| {});
        let error = copied.unwrap_err();
        assert!(
            matches!(&error, Error::Call(call) if call.message.contains("Permission denied")),
            "{error}"
        );
    }
}

#[test]
fn changes_that_cannot_be_end_a_watch() {
    let started = &br#"{"pid":3}"#[..];
    let change = |path: &str, from: &str| {
        format!(r#"{{"changes":[{{"path":{path},"what":"added","from":{from}}}]}}"#).into_bytes()
    };
    let many = {
        let one = r#"{"path":[97],"what":"added"},"#.repeat(501);
        format!(r#"{{"changes":[{}]}}"#, one.trim_end_matches(',')).into_bytes()
    };
    for (payload, words) in [
        (change("[46,46]", "null"), "cannot be"),
        (change("[47,101,116,99]", "null"), "cannot be"),
        (change("[97,0]", "null"), "cannot be"),
        (change("[97]", "[46,46,47,97]"), "cannot be"),
        (many, "cannot be"),
        (b"{}".to_vec(), "missing field"),
        (b"\xff".to_vec(), "expected value"),
    ] {
        let bytes = frames(&[(kind::STARTED, started), (CHANGES, &payload)]);
        let error = watched(bytes).unwrap_err();
        assert!(matches!(&error, Error::Protocol(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = watched(frames(&[(kind::STARTED, started), (kind::STDOUT, b"x")])).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    let unsupported = br#"{"kind":"unsupported","message":"what?"}"#;
    let error = watched(frames(&[(kind::ERROR, unsupported)])).unwrap_err();
    let told = |error: &Error| matches!(error, Error::Call(call) if call.kind == CallErrorKind::Unsupported);
    assert!(told(&error), "{error}");
}

fn watched(bytes: Vec<u8>) -> lib_guest::Result<()> {
    let (guest, _directory) = guest(says(bytes));
    let what = Watch {
        path: b"/".to_vec(),
        user: None,
        entries: 1,
        skip: Vec::new(),
    };
    guest.watch(what, None, &mut |_| ControlFlow::Continue(()))
}
