//! A guest, a VMM or a client that does not keep the rules.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;

use banger_wire::monitor::{ControlReply, ControlRequest, ExitReason, file};

use crate::fake;
use crate::rig::{Rig, at_end, read_all, read_line};

fn phase_is_told(rig: &Rig) {
    assert!(matches!(
        rig.control(&ControlRequest::Status),
        ControlReply::Status { .. }
    ));
}

#[test]
fn garbage_from_the_guest_closes_the_channel_for_good() {
    let rig = Rig::ready("ready");
    let mut open = rig.connect(fake::ECHO);
    let mut handshaking = rig.dial();
    rig.command("garbage");
    assert!(at_end(&mut open));
    handshaking.write_all(b"CONNECT ").unwrap_or(());
    assert!(at_end(&mut handshaking));
    let mut late = rig.dial();
    assert!(at_end(&mut late));
    let log = rig.text(file::VMM_LOG);
    assert_eq!(log.matches("monitor: ").count(), 1, "{log}");
    assert!(log.contains("the guest broke the protocol"), "{log}");
    // The VM goes on, and is stopped without its agent.
    phase_is_told(&rig);
    let record = rig.exited(&ControlRequest::Stop { grace_ms: 30_000 });
    assert_eq!(record.reason, ExitReason::Stopped);
}

#[test]
fn a_flood_of_opens_is_refused_and_survived() {
    let rig = Rig::ready("ready");
    let mut echo = rig.connect(fake::ECHO);
    rig.command("opens 100000");
    echo.write_all(b"still here").unwrap();
    echo.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut echo), b"still here");
    let mut status = rig.control(&ControlRequest::Status);
    // The client of the command may still be on its way out.
    if let ControlReply::Status { streams, .. } = &mut status {
        assert!(*streams <= 3, "{streams}");
    }
}

#[test]
fn an_endless_event_line_costs_the_events_stream_only() {
    let rig = Rig::fake("silent").start();
    rig.command("endless");
    rig.command("reopen-events");
    rig.command(r#"event {"event":"ready","protocol":1,"version":"x","uptime_ms":1}"#);
    let reply = rig.control(&ControlRequest::WaitReady);
    assert!(matches!(reply, ControlReply::Ready { .. }));
}

#[test]
fn events_that_are_not_understood_are_ignored() {
    let rig = Rig::fake("silent").start();
    for line in [
        "",
        "{",
        "{}",
        r#"{"event":"dance"}"#,
        r#"{"event":"ready"}"#,
        "\u{1b}[2J",
    ] {
        rig.command(&format!("event {line}"));
    }
    rig.command(&format!(
        r#"event {{"event":"failed","message":"{}"}}"#,
        "m".repeat(9000)
    ));
    let ControlReply::GuestFailed { message } = rig.control(&ControlRequest::WaitReady) else {
        panic!();
    };
    assert_eq!(message.len(), 4096);
}

#[test]
fn qmp_that_is_not_understood_is_ignored() {
    let mut rig = Rig::ready("ready");
    rig.command("qmp what");
    rig.command(r#"qmp {"event": "NIC_RX_FILTER_CHANGED", "data": 7}"#);
    rig.command(r#"qmp {"error": {"class": "GenericError", "desc": "no"}}"#);
    rig.command("endless-qmp");
    rig.command("exit 0");
    rig.wait();
    assert!(rig.text(file::VMM_LOG).contains("monitor: QMP: no\n"));
    assert!(rig.text(file::VMM_LOG).contains("monitor: QMP is closed"));
}

#[test]
fn wrong_handshakes_are_closed() {
    let rig = Rig::ready("ready");
    for line in [
        "CONNECT 1\n",
        "CONNECT 1023\n",
        "CONNECT\n",
        "GET / HTTP/1.1\r\n",
        "\n",
        "CONNECT 00000000000000000000000000001024\n",
        "CONNECT 99999999999999999999\n",
    ] {
        let mut socket = rig.dial();
        socket.write_all(line.as_bytes()).unwrap();
        assert!(at_end(&mut socket), "{line:?}");
    }
    let mut cut = rig.dial();
    cut.write_all(b"CONN").unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut cut), b"");
    // One that says nothing is closed after a while, a slow one is served.
    let mut silent = rig.dial();
    let mut slow = rig.dial();
    for byte in format!("CONNECT {}\n", fake::ECHO).bytes() {
        slow.write_all(&[byte]).unwrap();
        phase_is_told(&rig);
    }
    assert!(read_line(&mut slow).starts_with("OK "));
    assert!(at_end(&mut silent));
    slow.write_all(b"x").unwrap();
    slow.read_exact(&mut [0]).unwrap();
}

#[test]
fn more_clients_than_allowed_are_closed_and_the_rest_works() {
    let rig = Rig::ready("ready");
    let mut sockets: Vec<_> = (0..512).map(|_| rig.connect(fake::ECHO)).collect();
    let mut extra = rig.dial();
    assert!(at_end(&mut extra));
    for socket in &mut sockets {
        socket.write_all(b"x").unwrap();
    }
    for socket in &mut sockets {
        socket.read_exact(&mut [0]).unwrap();
    }
    // Room is made when one leaves and its stream is reset.
    drop(sockets.pop());
    let mut again = loop {
        let mut socket = rig.dial();
        if writeln!(socket, "CONNECT {}", fake::ECHO).is_ok()
            && read_line(&mut socket).starts_with("OK ")
        {
            break socket;
        }
    };
    again.write_all(b"y").unwrap();
    again.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_console_log_is_bounded_and_ends_with_the_newest() {
    let mut rig = Rig::fake("ready");
    rig.launch.console_limit = 64 * 1024;
    let mut rig = rig.start();
    rig.command("console 100000");
    rig.command("power-off");
    rig.wait();
    let log = rig.text(file::CONSOLE_LOG);
    assert!(
        (32 * 1024..=64 * 1024).contains(&log.len()),
        "{}",
        log.len()
    );
    let numbers: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&99_999));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(
        fs::metadata(rig.path(file::CONSOLE_LOG)).unwrap().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_console_log_that_cannot_grow_does_not_stop_the_guest() {
    let rig = Rig::fake("ready");
    // The replacement cannot be written: its name is taken by a directory.
    fs::create_dir(rig.path("console.log.tmp")).unwrap();
    let mut rig = rig;
    rig.launch.console_limit = 4096;
    let mut rig = rig.start();
    rig.command("console 50000");
    rig.command("power-off");
    rig.wait();
    let log = rig.text(file::VMM_LOG);
    assert_eq!(
        log.matches("monitor: console output is lost").count(),
        1,
        "{log}"
    );
    assert_eq!(rig.exit_record().reason, ExitReason::GuestPowerOff);
}
