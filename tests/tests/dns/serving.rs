//! The server follows what runs, and survives what happens to it.

use std::fs;
use std::io::{Read, Write};

use banger_tests::{NameServer, Netns, Sandbox, eventually, skipped};
use lib_net::PrivilegedOps;

use super::{PATIENCE, asked, connect, host, reserve, vm};

#[test]
fn names_follow_what_runs() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let (netns, netd) = host(&sandbox);
    let mut ops = connect(&netd);
    let server = NameServer::start(&sandbox, &netns);
    let ask = |question: &str| asked(&sandbox, &netns, question);
    let becomes = |question: &str, said: &str| {
        eventually(&format!("{question} becomes {said}"), PATIENCE, || {
            (ask(question) == said).then_some(())
        });
    };

    let first = reserve(&mut ops, 1, "dev");
    let second = reserve(&mut ops, 2, "dev");
    assert_eq!(ask("dev"), "NXDOMAIN", "it is only reserved");
    let (_, tap) = ops.attach(vm(1)).unwrap();
    let (_, other) = ops.attach(vm(2)).unwrap();
    let own = format!("NOERROR {}", first.address);
    becomes("dev", &own);
    assert_eq!(
        ask("dev.root.vm"),
        own,
        "the first of two of one user has both names"
    );
    assert_eq!(ask("DEV.VM"), own);
    assert_eq!(ask("--tcp dev"), own);
    assert_eq!(ask("dev AAAA"), "NOERROR");
    assert_eq!(ask("dev ANY"), own);
    assert_eq!(ask("vm NS"), "NOERROR vm.");
    assert!(ask("vm SOA").starts_with("NOERROR "));
    assert_eq!(ask(&first.address.to_string()), "NOERROR dev.vm.");
    assert_eq!(ask("example.org"), "REFUSED");
    assert_eq!(ask("nobody"), "NXDOMAIN");
    // Exit statuses, and a table for people.
    netns.run(&sandbox, "banger-net dns query nobody").exits(3);
    netns
        .run(&sandbox, "banger-net dns query dev AAAA")
        .exits(3);
    netns
        .run(&sandbox, "banger-net dns query example.org")
        .exits(1);
    netns
        .run(&sandbox, "banger-net dns query dev NONSENSE")
        .exits(2)
        .says("NONSENSE");
    let table = netns.run(&sandbox, "banger-net dns query --format table dev");
    assert!(
        table.ok().contains("dev.vm. A") && table.stdout.contains("NOERROR"),
        "{table}"
    );

    let list = sandbox.sh("banger-net dns list").records();
    assert_eq!(list.len(), 2);
    assert_eq!(
        list[0]["names"],
        serde_json::json!(["dev.vm", "dev.root.vm"])
    );
    assert_eq!(list[1]["names"], serde_json::json!(["dev.root.vm"]));
    assert_eq!(
        (&list[0]["kind"], &list[0]["attached"]),
        (&"name".into(), &true.into())
    );

    // The interface goes with its last descriptor, and the name with it; the second one does not inherit.
    drop(tap);
    becomes("dev", "NXDOMAIN");
    assert_eq!(ask("dev.root.vm"), format!("NOERROR {}", second.address));

    // It dies without a word; another one knows what it knew.
    server.kill();
    netns
        .run(&sandbox, "banger-net dns query dev")
        .exits(1)
        .says("does not answer");
    let server = NameServer::start(&sandbox, &netns);
    assert_eq!(ask("dev.root.vm"), format!("NOERROR {}", second.address));
    // While the daemon is dead, names stay; it writes the file anew when it comes back.
    let state = netd.state().to_owned();
    netd.kill();
    let file = state.join("names.json");
    let whole = fs::read(&file).unwrap();
    let replace = |content: &[u8]| {
        fs::write(state.join("half"), content).unwrap();
        fs::rename(state.join("half"), &file).unwrap();
    };
    replace(&whole[..whole.len() / 2]);
    server
        .running()
        .wait_for_stderr("the 1 names from before are kept");
    assert_eq!(ask("dev.root.vm"), format!("NOERROR {}", second.address));
    let long = fs::File::create(state.join("long")).unwrap();
    long.set_len(100 << 20).unwrap();
    fs::rename(state.join("long"), &file).unwrap();
    server.running().wait_for_stderr("it is longer than 24 MiB");
    assert_eq!(ask("dev.root.vm"), format!("NOERROR {}", second.address));
    sandbox
        .sh("banger-net dns list")
        .exits(1)
        .says("longer than")
        .hints("restart banger-netd");
    fs::remove_file(&file).unwrap();
    assert_eq!(ask("dev.root.vm"), format!("NOERROR {}", second.address));
    replace(&whole);
    drop(other);
    let netd = banger_tests::Netd::start(&sandbox, &netns, "");
    becomes("dev.root.vm", "NXDOMAIN");
    drop(netd);
}

#[test]
fn a_name_is_never_missing_while_others_come_and_go() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let (netns, netd) = host(&sandbox);
    let _server = NameServer::start(&sandbox, &netns);
    let mut ops = connect(&netd);
    reserve(&mut ops, 0, "stays");
    let (_, _tap) = ops.attach(vm(0)).unwrap();
    eventually("the server knows it", PATIENCE, || {
        asked(&sandbox, &netns, "stays")
            .starts_with("NOERROR 10")
            .then_some(())
    });
    let variable = format!("env {SOCKET}={}", netd.socket().display());
    inside(&sandbox, &netns, &variable, "asks_while_names_change");
}

const SOCKET: &str = "BANGER_TEST_NETD";

/// Each change of a name or of a rule is another file.
#[test]
#[ignore = "runs in a namespace of another test"]
fn asks_while_names_change() {
    let socket = std::env::var_os(SOCKET).unwrap();
    let mut ops = lib_net::Client::connect(std::path::Path::new(&socket)).unwrap();
    let server = "127.83.0.53:53".parse().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = 0_u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let lookup = lib_dns::look_up(server, "stays.vm", "A", None, PATIENCE).unwrap();
                assert_eq!((&*lookup.code, lookup.records.len()), ("NOERROR", 1));
                answers += 1;
            }
            answers
        });
        for round in 0..100 {
            reserve(&mut ops, 1, &format!("other{round}"));
            let (_, tap) = ops.attach(vm(1)).unwrap();
            ops.nat(vm(1), round % 2 == 0).unwrap();
            if round % 4 == 0 {
                ops.release(vm(1)).unwrap();
            }
            // It goes with its descriptor, and the next round finds it gone.
            drop(tap);
            eventually("it is gone", PATIENCE, || {
                (ops.status().unwrap().attached == 1).then_some(())
            });
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(asking.join().unwrap() > 100);
    });
}

#[test]
fn malformed_packets_harm_nobody() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let (netns, _netd) = host(&sandbox);
    let _server = NameServer::start(&sandbox, &netns);
    inside(&sandbox, &netns, "", "sends_nonsense");
    assert_eq!(asked(&sandbox, &netns, "vm NS"), "NOERROR vm.");
    assert_eq!(asked(&sandbox, &netns, "--tcp vm NS"), "NOERROR vm.");
}

/// To both transports of the host's side and of the guests'; a question behind it is answered.
#[test]
#[ignore = "runs in a namespace of another test"]
fn sends_nonsense() {
    let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02vm\0\0\x02\0\x01";
    let packets: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0],
        vec![0xff; 512],
        question[..12].to_vec(),
        // A pointer to itself, more questions than there are, a label that is too long, and an answer.
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01".to_vec(),
        b"\0\x01\x01\0\xff\xff\0\0\0\0\0\0".to_vec(),
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x7fvm\0\0\x01\0\x01".to_vec(),
        b"\0\x01\x81\x80\0\x01\0\0\0\0\0\0\x02vm\0\0\x02\0\x01".to_vec(),
        vec![0x41; 65_000],
    ];
    for server in ["127.83.0.53:53", "10.83.0.1:53"] {
        let server: std::net::SocketAddr = server.parse().unwrap();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for packet in &packets {
            socket.send_to(packet, server).unwrap();
            let mut stream = std::net::TcpStream::connect(server).unwrap();
            let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
            let whole = [&length, &packet[..]].concat();
            // It may have had enough before the end, and a length may be a lie.
            let _ = stream.write_all(&whole);
            let _ = stream.write_all(&[0xff, 0xff, 0]);
            drop(stream);
        }
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .send_to(&[&[0x77, 0x77], &question[2..]].concat(), server)
            .unwrap();
        let mut answer = [0; 512];
        loop {
            let length = socket.recv(&mut answer).unwrap();
            if answer[..2] == [0x77, 0x77] {
                assert!(length > question.len() && answer[3] & 15 == 0);
                break;
            }
        }
    }
}

#[test]
fn what_is_no_vm_is_asked_of_the_hosts_resolver() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let (netns, _netd) = host(&sandbox);
    fs::write(
        NameServer::resolv_conf(&sandbox),
        format!("nameserver {}\nnameserver 127.0.0.1\n", NameServer::HOST),
    )
    .unwrap();
    let long = "x".repeat(200);
    let strings = vec![long; 12].join(",");
    let world = super::dnsmasq(
        &sandbox,
        &netns,
        "127.0.0.1",
        &format!("--host-record=a.world.test,192.0.2.7 --txt-record=big.test,{strings}"),
    );
    let server = NameServer::start(&sandbox, &netns);
    // At the guests' address the host is a guest like any other, but for the world.
    let ask = |question: &str| asked(&sandbox, &netns, &format!("--server 10.83.0.1 {question}"));
    assert_eq!(ask("a.world.test"), "NOERROR 192.0.2.7");
    assert_eq!(ask("a.world.test AAAA"), "NOERROR");
    // Longer than a packet: it comes by TCP, from the other server as well.
    let big = netns.run(
        &sandbox,
        "banger-net dns query --server 10.83.0.1 big.test TXT",
    );
    assert_eq!(big.record()["transport"], "tcp", "{big}");
    assert!(big.stdout.matches("xxxxxxxxxx").count() >= 12, "{big}");

    // Names of VMs never go there, and the network's own addresses neither.
    assert_eq!(ask("nobody.vm"), "NXDOMAIN");
    assert_eq!(ask("9.0.83.10.in-addr.arpa. PTR"), "NXDOMAIN");
    inside(&sandbox, &netns, "", "asks_from_elsewhere");

    // The host gets another resolver, and then none.
    world.signal(nix::sys::signal::Signal::SIGTERM);
    world.finish();
    assert_eq!(ask("a.world.test"), "SERVFAIL");
    let other = super::dnsmasq(
        &sandbox,
        &netns,
        "127.0.0.2",
        "--host-record=a.world.test,192.0.2.8",
    );
    let new = sandbox.path("resolv.conf.new");
    fs::write(&new, "nameserver 127.0.0.1\nnameserver 127.0.0.2\n").unwrap();
    fs::rename(new, NameServer::resolv_conf(&sandbox)).unwrap();
    assert_eq!(
        ask("a.world.test"),
        "NOERROR 192.0.2.8",
        "the first one is dead"
    );
    drop((server, other));
}

/// Runs another test of this program in the namespace.
fn inside(sandbox: &Sandbox, netns: &Netns, variables: &str, test: &str) {
    let program = std::env::current_exe().expect("a process has an executable");
    let line = format!(
        "{variables} {} --exact --nocapture --ignored dns::serving::{test}",
        program.display()
    );
    netns.run(sandbox, &line).ok();
}

/// A packet for the guests' server that is from no guest gets no answer; the next one proves that it was read.
#[test]
#[ignore = "runs in a namespace of another test"]
fn asks_from_elsewhere() {
    let guests: std::net::SocketAddr = "10.83.0.1:53".parse().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02vm\0\0\x06\0\x01";
    socket.send_to(question, guests).unwrap();
    let lookup = lib_dns::look_up(guests, "vm", "SOA", None, PATIENCE).unwrap();
    assert_eq!(lookup.code, "NOERROR");
    socket.set_nonblocking(true).unwrap();
    let answer = socket.recv(&mut [0; 512]);
    assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn many_connections_and_slow_ones_harm_nobody() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let (netns, _netd) = host(&sandbox);
    let _server = NameServer::start(&sandbox, &netns);
    inside(&sandbox, &netns, "", "connects_often");
    assert_eq!(asked(&sandbox, &netns, "--tcp vm NS"), "NOERROR vm.");
}

/// The other side of the test above.
#[test]
#[ignore = "runs in a namespace of another test"]
fn connects_often() {
    let server = (NameServer::HOST, 53);
    let mut open = Vec::new();
    for _ in 0..300 {
        let mut stream = std::net::TcpStream::connect(server).unwrap();
        // Half a length, and then nothing.
        let _ = stream.write_all(&[0]);
        open.push(stream);
    }
    // Past the limit they are closed at once.
    let mut last = open.pop().unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 1];
    assert!(matches!(last.read(&mut buffer), Ok(0) | Err(_)));
    let lookup = lib_dns::look_up(
        "127.83.0.53:53".parse().unwrap(),
        "vm",
        "NS",
        None,
        PATIENCE,
    );
    assert_eq!(
        lookup.unwrap().code,
        "NOERROR",
        "packets are answered meanwhile"
    );
}
