//! Bytes between clients and guest ports.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Instant;

use banger_wire::monitor::{ControlReply, ControlRequest};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::fake::{self, checksum, pattern};
use crate::rig::{Rig, at_end, read_all, read_line};

const LARGE: u64 = 64 << 20;

fn send_pattern(socket: &mut impl Write, length: u64) -> u64 {
    let mut sum = fake::EMPTY;
    let mut block = Vec::new();
    for at in 0..length {
        block.push(pattern(at));
        if block.len() == 64 * 1024 || at + 1 == length {
            socket.write_all(&block).unwrap();
            sum = checksum(sum, &block);
            block.clear();
        }
    }
    sum
}

fn count_and_sum(answer: &[u8]) -> (u64, u64) {
    let (count, sum) = answer.split_at(8);
    (
        u64::from_le_bytes(count.try_into().unwrap()),
        u64::from_le_bytes(sum.try_into().unwrap()),
    )
}

fn rate(what: &str, begun: Instant, bytes: u64) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("{what}: {:.0} MB/s", bytes as f64 / seconds / 1e6);
}

/// A round trip through monitor and guest, after which all that came before has been served.
fn echo(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let mut socket = rig.connect(fake::ECHO);
    socket.write_all(bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    read_all(&mut socket)
}

#[test]
fn large_transfers_to_the_guest_are_exact() {
    let rig = Rig::ready("ready");
    let mut socket = rig.connect(fake::COUNT);
    let begun = Instant::now();
    let sum = send_pattern(&mut socket, LARGE);
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(count_and_sum(&read_all(&mut socket)), (LARGE, sum));
    rate("to the guest", begun, LARGE);
}

#[test]
fn large_transfers_from_the_guest_are_exact() {
    let rig = Rig::ready("ready");
    let mut socket = rig.connect(fake::SOURCE);
    let begun = Instant::now();
    socket.write_all(&LARGE.to_le_bytes()).unwrap();
    let (mut at, mut block) = (0, vec![0; 64 * 1024]);
    loop {
        let count = socket.read(&mut block).unwrap();
        if count == 0 {
            break;
        }
        for byte in &block[..count] {
            assert_eq!(*byte, pattern(at), "at {at}");
            at += 1;
        }
    }
    assert_eq!(at, LARGE);
    rate("from the guest", begun, LARGE);
}

#[test]
fn both_directions_at_once() {
    let rig = Rig::ready("ready");
    let socket = rig.connect(fake::ECHO);
    let length = LARGE / 4;
    let mut writer = socket.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let sum = send_pattern(&mut writer, length);
        writer.shutdown(Shutdown::Write).unwrap();
        sum
    });
    let bytes = read_all(&mut { socket });
    assert_eq!(bytes.len() as u64, length);
    assert_eq!(checksum(fake::EMPTY, &bytes), sender.join().unwrap());
}

#[test]
fn a_hundred_clients_at_once() {
    let rig = Rig::ready("ready");
    let mut sockets: Vec<_> = (0..100).map(|_| rig.connect(fake::ECHO)).collect();
    let ControlReply::Status { streams, .. } = rig.control(&ControlRequest::Status) else {
        panic!();
    };
    assert_eq!(streams, 101);
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket
            .write_all(format!("client {number}\n").repeat(5000).as_bytes())
            .unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        let expected = format!("client {number}\n").repeat(5000);
        assert!(read_all(socket) == expected.as_bytes(), "client {number}");
    }
}

#[test]
fn connections_wait_for_the_guest() {
    let rig = Rig::fake("ready");
    let gate = rig.temporary.path().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let mut rig = rig;
    rig.launch
        .arguments
        .push(format!("gate={}", gate.display()));
    let rig = rig.start();
    let mut sockets: Vec<_> = (0..10).map(|_| rig.dial()).collect();
    for socket in &mut sockets {
        writeln!(socket, "CONNECT {}\nearly ", fake::ECHO).unwrap();
    }
    // One that leaves meanwhile is forgotten.
    drop(sockets.pop());
    let ControlReply::Status { streams: 0, .. } = rig.control(&ControlRequest::Status) else {
        panic!();
    };
    drop(File::options().write(true).open(&gate).unwrap());
    for socket in &mut sockets {
        assert!(read_line(socket).starts_with("OK "));
        socket.write_all(b"and late").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(socket), b"early \nand late");
    }
}

#[test]
fn the_guest_may_finish_first() {
    let rig = Rig::ready("ready");
    let mut socket = rig.connect(fake::FINISH_FIRST);
    assert_eq!(read_all(&mut socket), b"hi");
    // The other direction is still open.
    send_pattern(&mut socket, 1_000_000);
    let ControlReply::Status { streams, .. } = rig.control(&ControlRequest::Status) else {
        panic!();
    };
    assert_eq!(streams, 2);
}

#[test]
fn refused_and_reset_streams_close_their_clients() {
    let rig = Rig::ready("ready");
    let mut refused = rig.dial();
    writeln!(refused, "CONNECT {}", fake::REFUSE).unwrap();
    assert_eq!(read_all(&mut refused), b"");
    let mut eager = rig.dial();
    writeln!(eager, "CONNECT {}", fake::EAGER).unwrap();
    assert_eq!(read_all(&mut eager), b"");
    let mut reset = rig.connect(fake::RESET);
    reset.write_all(b"x").unwrap();
    assert!(at_end(&mut reset));
}

#[test]
fn a_client_that_leaves_resets_its_stream() {
    let rig = Rig::ready("ready");
    let mut watcher = rig.connect(fake::AWAIT_RESETS);
    writeln!(watcher, "4").unwrap();
    drop(rig.connect(fake::STALL));
    let mut socket = rig.connect(fake::STALL);
    socket.write_all(b"its last words").unwrap();
    drop(socket);
    let half = rig.connect(fake::STALL);
    half.shutdown(Shutdown::Write).unwrap();
    drop(half);
    // The monitor has seen the end of this one's bytes before it sees the end of its socket.
    let half = rig.connect(fake::STALL);
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(echo(&rig, b"x"), b"x");
    drop(half);
    assert_eq!(read_all(&mut watcher), b"ok");
}

#[test]
fn what_a_client_left_behind_still_reaches_the_guest() {
    let rig = Rig::ready("ready");
    for _ in 0..20 {
        drop(rig.command(r#"event {"event":"failed","message":"ignored after ready"}"#));
    }
    let mut rig = rig;
    drop(rig.command("power-off"));
    rig.wait();
}

#[test]
fn a_stalled_client_stalls_nobody_else() {
    let rig = Rig::ready("ready");
    // The guest sends to clients that do not read; the host sends to a guest that does not.
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut source = rig.connect(fake::SOURCE);
        source.write_all(&LARGE.to_le_bytes()).unwrap();
        let mut stall = rig.connect(fake::STALL);
        stall.set_nonblocking(true).unwrap();
        let mut sent = 0;
        let error = loop {
            match stall.write(&[0; 4096]) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(
            sent < 2 << 20,
            "{sent} bytes were taken for a guest that takes none"
        );
        stalled.push((source, stall));
    }
    let mut socket = rig.connect(fake::COUNT);
    let sum = send_pattern(&mut socket, LARGE / 8);
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(count_and_sum(&read_all(&mut socket)), (LARGE / 8, sum));
    // What was held back comes when it is wanted.
    let (mut source, _) = stalled.pop().unwrap();
    let mut start = vec![0; 1 << 20];
    source.read_exact(&mut start).unwrap();
    assert!(start.iter().zip(0..).all(|(byte, at)| *byte == pattern(at)));
    let monitor = rig.handles().monitor_pid;
    let status = fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 32 * 1024, "{peak} KiB for 40 stalled streams");
}
