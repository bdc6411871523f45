//! Published ports, the clock and the statistics.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use banger_wire::agent::Request;
use banger_wire::monitor::{ControlReply, ControlRequest, LaunchReply, Publish, Sample, file};

use crate::fake::{self, checksum, pattern};
use crate::footprint::assert_idle;
use crate::rig::{LIMIT, Rig, at_end, run};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port that leads to what the simulated guest has behind a number.
fn port(guest: u32) -> Publish {
    let free = TcpListener::bind((HOST, 0)).unwrap();
    Publish {
        address: HOST,
        host_port: free.local_addr().unwrap().port(),
        guest_port: u16::try_from(guest).unwrap(),
    }
}

fn connect(port: Publish) -> TcpStream {
    let socket = TcpStream::connect((port.address, port.host_port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    socket
}

fn echoed(mut socket: TcpStream, text: &str) -> String {
    socket.write_all(text.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Publishes a port that nobody has taken since it was chosen.
fn publish(rig: &Rig, guest: u32) -> Publish {
    loop {
        let port = port(guest);
        match rig.control(&ControlRequest::Publish(port)) {
            ControlReply::Done => return port,
            ControlReply::PortInUse { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn bytes_and_both_ends_of_file_go_through_a_published_port() {
    let rig = Rig::ready("ready");
    let echo = publish(&rig, fake::ECHO);
    assert_eq!(echoed(connect(echo), "hello"), "hello");
    // Twice is once.
    assert_eq!(
        rig.control(&ControlRequest::Publish(echo)),
        ControlReply::Done
    );
    let count = publish(&rig, fake::COUNT);
    let mut socket = connect(count);
    let bytes: Vec<u8> = (0..8 << 20).map(pattern).collect();
    socket.write_all(&bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let mut expected = (bytes.len() as u64).to_le_bytes().to_vec();
    expected.extend_from_slice(&checksum(fake::EMPTY, &bytes).to_le_bytes());
    assert_eq!(answer, expected);
    // The guest may be first to finish, too.
    let first = publish(&rig, fake::FINISH_FIRST);
    let mut socket = connect(first);
    let mut hi = String::new();
    socket.read_to_string(&mut hi).unwrap();
    assert_eq!(hi, "hi");
    drop(socket);
    assert_eq!(echoed(connect(echo), "still"), "still");
    // A port where nobody listens in the guest, and one whose guest says no later.
    for guest in [fake::REFUSE, fake::RESET] {
        let mut socket = connect(publish(&rig, guest));
        let _ = socket.write_all(b"x");
        assert!(at_end(&mut socket), "{guest}");
    }
    assert_idle(&rig);
}

#[test]
fn a_guest_that_does_not_read_stops_its_own_client_only() {
    let rig = Rig::ready("ready");
    let mut stalled = connect(publish(&rig, fake::STALL));
    stalled
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    // Ends when all buffers on the way are full; nobody takes more than they hold.
    let mut taken = 0;
    while let Ok(count) = stalled.write(&[0; 64 * 1024]) {
        taken += count;
        assert!(taken < 64 << 20, "{taken} bytes are held");
    }
    assert_eq!(echoed(connect(publish(&rig, fake::ECHO)), "alive"), "alive");
}

#[test]
fn a_port_of_somebody_else_is_not_taken() {
    let taken = TcpListener::bind((HOST, 0)).unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let publish_taken = Publish {
        address: HOST,
        host_port: address.port(),
        guest_port: 80,
    };
    let rig = Rig::ready("ready");
    assert_eq!(
        rig.control(&ControlRequest::Publish(publish_taken)),
        ControlReply::PortInUse { address }
    );
    let mut other = Rig::fake("ready");
    other.launch.publish.push(publish_taken);
    let (mut monitor, reply) = run(&other.launch);
    assert_eq!(reply, LaunchReply::PortInUse { address });
    assert_eq!(monitor.wait().unwrap().code(), Some(4));
    other.assert_cleared();
}

#[test]
fn a_port_is_there_from_the_beginning_and_gone_when_unpublished() {
    let mut rig = Rig::fake("ready");
    // Whoever takes the port in between fails this attempt only.
    let echo = loop {
        let echo = port(fake::ECHO);
        rig.launch.publish = vec![echo];
        let (monitor, reply) = run(&rig.launch);
        rig.monitor = Some(monitor);
        match reply {
            LaunchReply::Started(_) => break echo,
            LaunchReply::PortInUse { .. } => drop(rig.wait()),
            other => panic!("{other:?}"),
        }
    };
    // The guest may still boot: the connection waits for it.
    let mut socket = connect(echo);
    socket.write_all(b"one").unwrap();
    let mut answer = [0; 3];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(
        rig.control(&ControlRequest::Unpublish(echo)),
        ControlReply::Done
    );
    TcpStream::connect((echo.address, echo.host_port)).unwrap_err();
    // Who was there before goes on.
    assert_eq!(echoed(socket, "two"), "two");
}

#[test]
fn a_flood_of_connections_leaves_room_for_others() {
    let rig = Rig::ready("ready");
    let echo = publish(&rig, fake::ECHO);
    let mut sockets: Vec<TcpStream> = (0..400).map(|_| connect(echo)).collect();
    let mut served = 0;
    for socket in &mut sockets {
        let mut byte = [0];
        // One that was refused may be reset before or after it wrote.
        let answered =
            socket.write_all(b"x").is_ok() && socket.read(&mut byte).is_ok_and(|n| n == 1);
        served += usize::from(answered);
    }
    assert!((200..=256).contains(&served), "{served} of 400");
    let mut others = rig.connect(fake::ECHO);
    others.write_all(b"y").unwrap();
    others.read_exact(&mut [0]).unwrap();
    drop(sockets);
    rig.control(&ControlRequest::Status);
}

/// What the monitor asked of the agent, by number from 1.
fn call(rig: &Rig, number: usize) -> Request {
    let mut socket = rig.connect(fake::AWAIT_CALL);
    writeln!(socket, "{number}").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A guest may be ready before its VMM has said what it can do.
fn pause(rig: &Rig) {
    let deadline = Instant::now() + LIMIT;
    while rig.control(&ControlRequest::Pause) != ControlReply::Done {
        assert!(Instant::now() < deadline, "the VMM takes no commands");
        std::thread::yield_now();
    }
}

#[test]
fn a_guest_is_told_the_time_after_a_pause() {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let rig = Rig::ready("ready statistics");
    pause(&rig);
    for number in 1..=3 {
        assert_eq!(rig.control(&ControlRequest::Pause), ControlReply::Done);
        assert_eq!(rig.control(&ControlRequest::Resume), ControlReply::Done);
        let Request::SetClock { unix_ns } = call(&rig, number) else {
            panic!("not told the time");
        };
        assert!(u128::from(unix_ns) >= before.as_nanos());
    }
    assert_idle(&rig);
}

#[test]
fn calls_that_are_not_answered_do_not_pile_up() {
    for mode in ["ready", "ready nonsense"] {
        let rig = Rig::ready(mode);
        pause(&rig);
        for _ in 0..50 {
            assert_eq!(rig.control(&ControlRequest::Resume), ControlReply::Done);
        }
        call(&rig, 1);
        let status = rig.control(&ControlRequest::Status);
        let ControlReply::Status { streams, .. } = status else {
            panic!("{status:?}");
        };
        // The events, one call, and the client of `call` on its way out.
        assert!(streams <= 4, "{streams}");
    }
}

#[test]
fn statistics_are_kept_and_nonsense_is_not() {
    for (mode, kept) in [("ready statistics", true), ("ready nonsense", false)] {
        let mut rig = Rig::fake(mode);
        rig.launch.statistics_s = Some(1);
        let rig = rig.start();
        rig.control(&ControlRequest::WaitReady);
        // The second call is made when the first was over.
        assert_eq!(
            (call(&rig, 1), call(&rig, 2)),
            (Request::Stats, Request::Stats)
        );
        let path = rig.path(file::STATISTICS);
        rig.exited(&ControlRequest::Kill);
        let text = fs::read_to_string(path).unwrap_or_default();
        let samples: Vec<Sample> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(!samples.is_empty(), kept, "{text}");
        for sample in samples {
            assert_eq!((sample.guest.uptime_ms, sample.guest.cpus), (7, 3));
            assert!(sample.vmm_rss.unwrap() > 0);
        }
    }
}

#[test]
fn what_happens_is_in_the_journal() {
    let mut rig = Rig::fake("ready");
    let journal = rig.temporary.path().join(banger_journal::FILE);
    rig.launch.journal = Some(journal.clone());
    let rig = rig.start();
    rig.control(&ControlRequest::WaitReady);
    rig.exited(&ControlRequest::Kill);
    let mut reader = banger_journal::Reader::new(&journal);
    let mut events = Vec::new();
    while let Some(line) = reader.next_line().unwrap() {
        assert_eq!((&*line.id, &*line.name), ("vm-1", "vm"));
        events.push(format!(
            "{} {}",
            line.event,
            line.detail.unwrap_or_default()
        ));
    }
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(events[0], "started ");
    assert!(events[1].starts_with("ready after "), "{events:?}");
    assert_eq!(events[2], "stopped killed");
}
