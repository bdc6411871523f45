//! Published ports and listening sockets of real guests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use banger_tests::{Sandbox, eventually, skipped};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a server behind a port of the host answers.
fn get(port: u64) -> String {
    let Ok(mut socket) = TcpStream::connect((
        "127.0.0.1",
        u16::try_from(port).expect("a port has 16 bits"),
    )) else {
        return "refused".into();
    };
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("the socket is open");
    let _ = socket.write_all(b"GET /file HTTP/1.0\r\n\r\n");
    socket
        .shutdown(Shutdown::Write)
        .expect("the socket is open");
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer
}

#[test]
fn ports_of_a_guest_without_a_network_are_reached() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let made = sandbox
        .sh("banger-vm create --network none --name v --publish 0:80 busybox")
        .record();
    let first = made["ports"][0].as_str().unwrap().to_owned();
    let port: u64 = first.split(':').nth(1).unwrap().parse().unwrap();
    let serve =
        "echo content > /tmp/file; httpd -p 127.0.0.1:80 -h /tmp; httpd -p [::1]:82 -h /tmp";
    sandbox
        .sh(&format!("banger-vm exec v -- sh -c '{serve}'"))
        .ok();
    eventually("the server answers", PATIENCE, || {
        get(port).ends_with("content\n").then_some(())
    });

    // Another one, live, to the IPv6 loopback.
    let published = sandbox.sh("banger-vm publish v 0:82").record();
    assert_eq!(
        (
            &published["kind"],
            &published["active"],
            &published["changed"]
        ),
        (&"published".into(), &true.into(), &true.into())
    );
    let second = published["host_port"].as_u64().unwrap();
    assert_ne!(second, 0);
    eventually("the second server answers", PATIENCE, || {
        get(second).ends_with("content\n").then_some(())
    });
    let again = sandbox
        .sh(&format!("banger-vm publish v {second}:82"))
        .record();
    assert_eq!(again["changed"], false);
    let listed = sandbox.sh("banger-vm ports --published v").records();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|record| record["active"] == true));

    // Who listens, as the guest's kernel tells it.
    let sockets = sandbox.sh("banger-vm ports --probe v").records();
    let httpd = sockets
        .iter()
        .find(|socket| socket["port"] == 80 && socket["protocol"] == "tcp")
        .unwrap_or_else(|| panic!("{sockets:#?}"));
    assert_eq!(
        (
            &httpd["process"],
            &httpd["address"],
            httpd["pid"].is_number()
        ),
        (&"httpd".into(), &"127.0.0.1".into(), true)
    );
    assert!(httpd["http"].is_number(), "{httpd}");

    // Taken ports are named with who has them, and nothing is recorded.
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    sandbox
        .sh(&format!("banger-vm publish v {taken_port}:80"))
        .exits(4)
        .says(&format!("process {}", std::process::id()))
        .hints("another port");
    sandbox
        .sh(&format!("banger-vm publish v {second}:83"))
        .exits(4)
        .says("v itself");
    sandbox
        .sh(&format!(
            "banger-vm create --network none --name w -p {port}:80 busybox"
        ))
        .exits(4)
        .says("by the VM v");
    sandbox.sh("banger-vm show w").exits(3);
    assert_eq!(
        sandbox.sh("banger-vm ports --published v").records().len(),
        2
    );
    sandbox
        .sh("banger-vm publish v 1:2/udp")
        .exits(2)
        .says("UDP ports cannot be published");

    // The intent outlives a stop; the listener does not.
    sandbox.sh("banger-vm stop v").ok();
    assert_eq!(get(port), "refused");
    let stopped = sandbox.sh("banger-vm ports --published v").records();
    assert!(stopped.iter().all(|record| record["active"] == false));
    let gone = sandbox
        .sh(&format!("banger-vm unpublish v {second}:82"))
        .record();
    assert_eq!(
        (&gone["changed"], &gone["active"]),
        (&true.into(), &false.into())
    );
    sandbox.sh("banger-vm start v").ok();
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo again > /tmp/file; httpd -p 80 -h /tmp'")
        .ok();
    assert!(get(port).ends_with("again\n"), "{}", get(port));
    assert_eq!(get(second), "refused");
    sandbox.sh(&format!("banger-vm unpublish v {port}:80")).ok();
    assert_eq!(get(port), "refused");
    drop(taken);
}
