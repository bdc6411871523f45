//! Ports and sockets forwarded by SSH, both ways, and an editor's remote mode.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use banger_tests::{Running, Sandbox, eventually, skipped};

/// Whatever the load, nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(90);
/// Larger than every window and buffer on the way.
const MUCH: usize = 4 << 20;

/// A port that nobody has, and that the kernel gives to nobody else (ip(7), ip_local_port_range).
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 10_000) as u16;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn data() -> Vec<u8> {
    (0..MUCH)
        .map(|i| (i % 251) as u8 ^ (i >> 12) as u8)
        .collect()
}

/// Sends all, says that it was all, and takes the answer to its end.
fn ask(mut stream: impl Read + Write, end: impl FnOnce(), bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).expect("the connection holds");
    end();
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("the connection holds");
    answer
}

fn ask_tcp(stream: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("the connection holds");
    ask(
        stream,
        || {
            stream
                .shutdown(Shutdown::Write)
                .expect("the connection holds")
        },
        bytes,
    )
}

/// Takes all, then answers with it reversed.
fn reverse(mut stream: impl Read + Write) {
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .expect("the connection holds");
    bytes.reverse();
    stream.write_all(&bytes).expect("the connection holds");
}

/// Starts a forwarding client; it ends when a forward cannot be had.
fn forward(sandbox: &Sandbox, flags: &str) -> Running {
    sandbox.start(&format!(
        "exec banger-vm ssh -o ExitOnForwardFailure=yes {flags} t -- 'echo ready; exec cat'"
    ))
}

#[test]
fn ports_and_sockets_are_forwarded_both_ways() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --name t --network none busybox")
        .ok();
    local_and_dynamic(&sandbox);
    remote(&sandbox);
    sockets(&sandbox);
    editor(&sandbox);
}

fn local_and_dynamic(sandbox: &Sandbox) {
    let (local, dynamic, dead) = (free_port(), free_port(), free_port());
    let flags =
        format!("-L {local}:localhost:7000 -L {dead}:127.0.0.1:7999 -D 127.0.0.1:{dynamic}");
    let client = forward(sandbox, &flags);
    client.wait_for_stdout("ready");
    let _server = sandbox.start("exec banger-vm exec t -- nc -ll -p 7000 -e sh -c 'tr a-z A-Z'");
    eventually("the guest listens", PATIENCE, || {
        let listening = sandbox.sh("banger-vm exec t -- netstat -tln");
        listening.ok().contains(":7000").then_some(())
    });
    let stream = TcpStream::connect(("127.0.0.1", local)).expect("the connection holds");
    // Fits into the buffers on the way: the server answers before it has heard all.
    let answer = ask_tcp(&stream, &b"hello ".repeat(5000));
    assert_eq!(answer, b"HELLO ".repeat(5000));

    // SOCKS 5 (RFC 1928): no authentication, connect to a name, one of them of the guest's /etc/hosts.
    for host in [&b"localhost"[..], b"t"] {
        let mut stream = TcpStream::connect(("127.0.0.1", dynamic)).expect("the connection holds");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("the connection holds");
        stream.write_all(&[5, 1, 0]).expect("the connection holds");
        let mut reply = [0; 2];
        stream.read_exact(&mut reply).expect("the connection holds");
        assert_eq!(reply, [5, 0]);
        let mut request = vec![5, 1, 0, 3, host.len() as u8];
        request.extend(host);
        request.extend(7000u16.to_be_bytes());
        stream.write_all(&request).expect("the connection holds");
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).expect("the connection holds");
        assert_eq!(reply[1], 0);
        assert_eq!(ask_tcp(&stream, b"socks"), b"SOCKS");
    }

    // Where nobody listens, the connection ends, and the others go on.
    let stream = TcpStream::connect(("127.0.0.1", dead)).expect("the connection holds");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("the connection holds");
    let mut nothing = Vec::new();
    let ended = (&stream).read_to_end(&mut nothing);
    assert!(nothing.is_empty(), "{ended:?}");
    let stream = TcpStream::connect(("127.0.0.1", local)).expect("the connection holds");
    assert_eq!(ask_tcp(&stream, b"still"), b"STILL");
    client.finish().exits(0);
}

fn remote(sandbox: &Sandbox) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the connection holds");
    let port = listener.local_addr().expect("the connection holds").port();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the connection holds");
        reverse(stream);
    });
    let client = forward(sandbox, &format!("-R 7100:127.0.0.1:{port}"));
    client.wait_for_stdout("ready");
    let answer = sandbox.sh("banger-vm exec t -- sh -c 'echo olleh | nc 127.0.0.1 7100'");
    assert_eq!(answer.ok(), "\nhello", "{answer}");
    server.join().expect("the connection holds");
    // A port that is taken is refused, and said.
    let taken = forward(sandbox, &format!("-R 7100:127.0.0.1:{port}")).finish();
    taken.exits(255).says("remote port forwarding failed");
    client.finish().exits(0);
    // It goes with its connection.
    eventually("the port is free again", PATIENCE, || {
        let listening = sandbox.sh("banger-vm exec t -- netstat -tln");
        (!listening.ok().contains(":7100")).then_some(())
    });
}

fn sockets(sandbox: &Sandbox) {
    // Here → guest → here again: both kinds of forwarding, one behind the other.
    let (near, far) = (sandbox.runtime().join("n"), sandbox.runtime().join("f"));
    let listener = UnixListener::bind(&far).expect("the connection holds");
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the connection holds");
        reverse(stream);
    });
    let flags = format!(
        "-R /tmp/there.sock:{} -L {}:/tmp/there.sock",
        far.display(),
        near.display()
    );
    let client = forward(sandbox, &flags);
    client.wait_for_stdout("ready");
    let mode = sandbox.sh("banger-vm exec t -- stat -c %A /tmp/there.sock");
    assert_eq!(mode.ok(), "srw-------\n");
    let stream = UnixStream::connect(&near).expect("the connection holds");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("the connection holds");
    let mut expected = data();
    let answer = ask(
        &stream,
        || {
            stream
                .shutdown(Shutdown::Write)
                .expect("the connection holds")
        },
        &expected,
    );
    expected.reverse();
    assert!(answer == expected, "{} bytes came back", answer.len());
    server.join().expect("the connection holds");
    client.finish().exits(0);
    eventually("the socket goes with its connection", PATIENCE, || {
        let there = sandbox.sh("banger-vm exec t -- test -e /tmp/there.sock");
        (there.status == 1).then_some(())
    });
    // Another user's place is none to bind in.
    let refused = forward(
        sandbox,
        &format!("-l guest -R /root/x.sock:{}", far.display()),
    );
    refused.finish().exits(255).says("forwarding failed");
}

/// As editors do it: a server of one's own is uploaded, runs, and is spoken to through a forwarded port.
fn editor(sandbox: &Sandbox) {
    sandbox
        .sh("banger-vm ssh-config > config; mkdir www; echo from-the-guest > www/page")
        .ok();
    std::fs::write(
        sandbox.path("batch"),
        "put /bin/busybox /root/busybox-server\nchmod 755 /root/busybox-server\nput -r www /root/www\n",
    )
    .expect("the connection holds");
    sandbox.sh("sftp -F config -b batch t.vm").ok();
    let port = free_port();
    let server = sandbox.start(&format!(
        "exec ssh -F config -o ExitOnForwardFailure=yes -L {port}:127.0.0.1:8000 t.vm \
         'echo ready; exec /root/busybox-server httpd -f -p 127.0.0.1:8000 -h /root/www'"
    ));
    server.wait_for_stdout("ready");
    let page = eventually("the server answers", PATIENCE, || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("200 OK").then_some(answer)
    });
    assert!(page.ends_with("from-the-guest\n"), "{page}");
    drop(server);
}
