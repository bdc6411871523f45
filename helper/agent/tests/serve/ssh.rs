//! Who talks to the SSH port and is no SSH client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_wire::port;
use lib_guest::Error;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};

use crate::harness::Harness;
use crate::{argv, run};

/// As many connections as the agent serves at once.
const LIMIT: usize = 64;
/// Nothing takes so long, on whatever machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn agent() -> Harness {
    let key = KeypairData::Ed25519(Ed25519Keypair::from_seed(&[7; 32]));
    let key = PrivateKey::new(key, "test").unwrap();
    let key = key.to_openssh(LineEnding::LF).unwrap();
    let ssh = serde_json::json!({"host_key": *key, "authorized_keys": []});
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
