//! Guests that fail in every way, and agents that do not keep the rules: the host neither hangs nor grows.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use banger_tests::{Sandbox, eventually, skipped};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn guests_that_fail_are_told_apart() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --network none --memory 256M --disk 64M --name v busybox")
        .ok();

    // A full disk is the command's problem; the guest and its agent go on.
    sandbox
        .sh("banger-vm exec v -- dd if=/dev/zero of=/root/full bs=1M")
        .exits(1)
        .says("No space left");
    sandbox.sh("head -c 1000000 /dev/zero > some").ok();
    sandbox
        .sh("banger-vm cp some v:/root")
        .exits(1)
        .says("No space left");
    let left = sandbox.sh("banger-vm exec v -- ls -A /root");
    assert_eq!(left.ok(), "full\n", "nothing is half made");
    sandbox.sh("banger-vm exec v -- rm /root/full").ok();
    sandbox.sh("banger-vm cp some v:/root").ok();

    // So is too much memory: the command is killed and not the agent.
    let hog = sandbox.sh("banger-vm exec v -- sh -c 'x=xxxxxxxx; while :; do x=$x$x$x$x; done'");
    hog.exits(128 + 9);
    let console = sandbox.sh("banger-vm logs v");
    assert!(
        console.ok().contains("Out of memory: Killed process"),
        "{console}"
    );
    sandbox.sh("banger-vm ping v").ok();

    // A console that is flooded is kept, by a monitor that does not grow.
    let flood = "dd if=/dev/zero bs=64k count=4 2>/dev/null | tr '\\0' x > /dev/console; echo";
    sandbox
        .sh(&format!("banger-vm exec v -- sh -c \"{flood}\""))
        .ok();
    let kept = sandbox.sh("banger-vm logs v").ok().matches('x').count();
    assert!(kept >= 256 << 10, "{kept}");
    let monitor = sandbox.handle("v", "monitor_pid");
    let status = fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let rss: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(rss < 32 << 10, "the monitor has {rss} KiB");

    // A panic is told, by whom it may concern.
    let waiting = sandbox.start("exec banger-vm wait v");
    let panic = sandbox.start("exec banger-vm exec v -- sh -c 'echo c > /proc/sysrq-trigger'");
    assert_ne!(panic.finish().status, 0);
    waiting.finish().exits(0);
    eventually("it is told why", PATIENCE, || {
        (sandbox.vm("v")["exit"] == "guest-panic").then_some(())
    });
    let events = sandbox.sh("banger-vm events v").records();
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["detail"]),
        (&"stopped".into(), &"guest-panic".into())
    );
    let console = sandbox.sh("banger-vm logs v");
    assert!(console.ok().contains("Kernel panic - "), "{console}");
}

#[test]
fn a_stopped_monitor_delays_nobody_for_long() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --network none --name v busybox && banger-vm create --no-start --name w busybox")
        .ok();
    let monitor = sandbox.handle("v", "monitor_pid");
    sandbox.sh(&format!("kill -STOP {monitor}")).ok();
    let listed = sandbox.sh("banger-vm list").records();
    sandbox.sh(&format!("kill -CONT {monitor}")).ok();
    assert_eq!(
        (&listed[0]["state"], &listed[1]["state"]),
        (&"orphaned".into(), &"stopped".into())
    );
    eventually("it answers again", PATIENCE, || {
        (sandbox.vm("v")["state"] == "running").then_some(())
    });
}

const REPLY: u8 = 64;
const ERROR: u8 = 65;
const STARTED: u8 = 66;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Answers calls in the place of a VM's agent; gets what was called, and the connection.
fn pretend(sandbox: &Sandbox, name: &str, answer: impl Fn(&str, &mut UnixStream) + Send + 'static) {
    let id = sandbox.vm(name)["id"].as_str().expect("an id").to_owned();
    let directory = sandbox.runtime().join(id);
    fs::create_dir(&directory).expect("the fake agent works");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
        .expect("the fake agent works");
    let listener = UnixListener::bind(directory.join("agent.sock")).expect("the fake agent works");
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("the fake agent works");
            let mut reader = BufReader::new(socket.try_clone().expect("the fake agent works"));
            let mut line = String::new();
            let mut header = [0; 5];
            // A client that went away early is as good as one that was answered.
            let _ = reader.read_line(&mut line);
            let _ = socket.write_all(b"OK 3\n");
            if reader.read_exact(&mut header).is_ok() {
                let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
                let mut call = vec![0; length as usize];
                reader.read_exact(&mut call).expect("the fake agent works");
                answer(
                    &String::from_utf8(call).expect("the fake agent works"),
                    &mut socket,
                );
            }
        }
    });
}

#[test]
fn an_older_agent_is_named_with_both_versions() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --no-start --name v busybox")
        .ok();
    pretend(&sandbox, "v", |call, socket| {
        let answer = match call.contains("\"op\":\"info\"") {
            true => frame(
                REPLY,
                br#"{"protocol":1,"version":"0.0.7","kernel":"x","uptime_ms":1,"memory_total":1,"memory_available":1,"more":1}"#,
            ),
            false => frame(ERROR, br#"{"kind":"unsupported","message":"what is that?"}"#),
        };
        let _ = socket.write_all(&answer);
    });
    for verb in [
        "cp v:/x y",
        "cp some v:/x",
        "ports v",
        "ping --transfer 1M v",
    ] {
        let refused = sandbox.sh(&format!("touch some; banger-vm {verb}"));
        refused
            .exits(1)
            .says("the agent in v is of version 0.0.7")
            .says(concat!("of version ", env!("CARGO_PKG_VERSION")))
            .hints("banger-vm restart v");
    }
    // What it knows works, whatever else it says.
    assert_eq!(sandbox.sh("banger-vm ping v").record()["agent"], "0.0.7");
}

#[test]
fn an_agent_that_lies_or_floods_is_cut_off() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --no-start --name v busybox")
        .ok();
    pretend(&sandbox, "v", |call, socket| {
        let asks = |op: &str| call.contains(&format!("\"op\":\"{op}\""));
        let mut bytes = if asks("copy") {
            let mut bytes = frame(STARTED, br#"{"pid":7}"#);
            // A file whose name leads up, in the tree's own words.
            let mut entry = vec![1];
            entry.extend_from_slice(&3u64.to_le_bytes());
            entry.extend_from_slice(&[0; 24]);
            entry.extend_from_slice(&9u32.to_le_bytes());
            entry.extend_from_slice(b"../escape");
            entry.extend_from_slice(&0u32.to_le_bytes());
            bytes.extend(frame(1, &entry));
            bytes.extend(frame(2, b"bad"));
            bytes
        } else if asks("info") {
            vec![REPLY, 255, 255, 255, 255]
        } else {
            // Endless words.
            vec![b'x'; 64]
        };
        bytes.resize(bytes.len().max(1 << 20), b'y');
        while socket.write_all(&bytes).is_ok() {
            bytes = vec![b'z'; 1 << 16];
        }
    });
    sandbox
        .sh("mkdir into && banger-vm cp v:/x into")
        .exits(1)
        .says("is no name of a file");
    assert!(!sandbox.path("escape").exists());
    assert_eq!(fs::read_dir(sandbox.path("into")).unwrap().count(), 0);
    sandbox
        .sh("banger-vm ping v")
        .exits(1)
        .says("broke the protocol");
    sandbox
        .sh("banger-vm ports v")
        .exits(1)
        .says("broke the protocol");
    let some = sandbox.sh("head -c 5000000 /dev/zero > some; banger-vm cp some v:/x");
    some.exits(1);
    assert!(!some.stderr.contains("panicked"), "{some}");
}
