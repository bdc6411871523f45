//! Who talks to the SSH port and is no SSH client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_wire::port;
use lib_guest::Error;
use russh::client::{ChannelOpenHandle, Msg, Session};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, client};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::harness::Harness;
use crate::{argv, run};

/// As many connections as the agent serves at once.
const LIMIT: usize = 64;
/// As many forwarded connections as it offers to one client at once.
const OFFERED: usize = 200;
/// Nothing takes so long, on whatever machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn key(seed: u8) -> PrivateKey {
    let key = KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32]));
    PrivateKey::new(key, "test").unwrap()
}

/// The client's key is [`key`] of 8.
fn agent() -> Harness {
    let host_key = key(7).to_openssh(LineEnding::LF).unwrap();
    let authorized = key(8).public_key().to_openssh().unwrap();
    let ssh = serde_json::json!({"host_key": *host_key, "authorized_keys": [authorized]});
    Harness::with_ssh(&ssh.to_string())
}

/// A connection whose server has introduced itself.
fn connect(agent: &Harness) -> Result<UnixStream, Error> {
    let mut stream = agent.guest().dial(port::SSH)?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut banner = [0; 15];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-2.0-banger_");
    Ok(stream)
}

fn exec_works(agent: &Harness) {
    let ran = run(&agent.guest(), argv(&["echo", "fine"])).unwrap();
    assert_eq!(ran.out, "fine\n");
}

#[test]
fn without_a_host_key_nobody_listens() {
    let agent = Harness::new();
    let refused = agent.guest().dial(port::SSH);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[test]
fn garbage_ends_its_own_connection_and_nothing_else() {
    let agent = agent();
    let mut innocent = connect(&agent).unwrap();
    let long = vec![b'x'; 1 << 20];
    let mut packet = b"SSH-2.0-x\r\n".to_vec();
    packet.extend([0xff; 64]);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0\0\0\0\n",
        &long,
        &packet,
    ] {
        let mut stream = connect(&agent).unwrap();
        // It may hang up before all is written.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        // The end of file or a reset; a timeout is neither.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    exec_works(&agent);
    // Who was there before still is.
    innocent.write_all(b"SSH-2.0-test\r\n").unwrap();
    let mut more = [0; 64];
    innocent.read_exact(&mut more).unwrap();
}

#[test]
fn connections_beyond_the_limit_are_refused_until_one_ends() {
    let agent = agent();
    let mut open: Vec<UnixStream> = (0..LIMIT).map(|_| connect(&agent).unwrap()).collect();
    let refused = agent.guest().dial(port::SSH);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    exec_works(&agent);
    open.pop();
    let start = Instant::now();
    while connect(&agent).is_err() {
        assert!(start.elapsed() < DEADLINE, "the place is not given back");
        std::thread::yield_now();
    }
}

/// A client that takes every forwarded connection, and hands it on.
struct Client(UnboundedSender<Channel<Msg>>);

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        let _ = self.0.send(channel);
        Ok(())
    }
}

/// Logs in as whoever runs the test.
async fn log_in(agent: &Harness) -> (client::Handle<Client>, UnboundedReceiver<Channel<Msg>>) {
    let stream = agent.guest().dial(port::SSH).unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let (sender, received) = unbounded_channel();
    let mut client = client::connect_stream(Default::default(), stream, Client(sender))
        .await
        .unwrap();
    let user = nix::unistd::geteuid().to_string();
    let key = PrivateKeyWithHashAlg::new(key(8).into(), None);
    let answer = client.authenticate_publickey(user, key).await.unwrap();
    assert!(answer.success());
    (client, received)
}

#[test]
fn forwarded_connections_beyond_the_limit_are_closed_until_one_ends() {
    let agent = agent();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, mut channels) = log_in(&agent).await;
        let port = client.tcpip_forward("127.0.0.1", 0).await.unwrap();
        let port = u16::try_from(port).unwrap();
        let connect = || TcpStream::connect(("127.0.0.1", port));
        let mut open = Vec::new();
        for _ in 0..OFFERED {
            let connection = connect().await.unwrap();
            let channel = timeout(DEADLINE, channels.recv()).await.unwrap().unwrap();
            open.push((connection, channel));
        }
        let mut refused = connect().await.unwrap();
        tokio::select! {
            ended = refused.read_u8() => assert!(ended.is_err(), "nobody sent anything"),
            _ = channels.recv() => panic!("the client is offered one more"),
            () = tokio::time::sleep(DEADLINE) => panic!("one more is neither closed nor offered"),
        }
        let (connection, channel) = open.pop().unwrap();
        drop(connection);
        channel.close().await.unwrap();
        let again = async {
            loop {
                let mut connection = connect().await.unwrap();
                tokio::select! {
                    // Its place was not free yet.
                    _ = connection.read_u8() => {}
                    channel = channels.recv() => break channel.unwrap(),
                }
            }
        };
        timeout(DEADLINE, again)
            .await
            .expect("the place is given back");
    });
    exec_works(&agent);
}
