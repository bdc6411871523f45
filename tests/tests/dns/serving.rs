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
    inside(&sandbox, &netns, "asks_from_elsewhere");

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
fn inside(sandbox: &Sandbox, netns: &Netns, test: &str) {
    let program = std::env::current_exe().expect("a process has an executable");
    let line = format!(
        "{} --exact --nocapture --ignored dns::serving::{test}",
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
    inside(&sandbox, &netns, "connects_often");
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
