//! Who listens in the guest: /proc/net/{tcp,tcp6,udp,udp6} joined with /proc/*/fd.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use banger_wire::agent::{Socket, Sockets};
use banger_wire::proc_net::{self, Entry, LISTEN, UNCONNECTED};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::image_file;

/// More do not fit into one frame.
const MOST: usize = 2000;
/// Bytes of the process's name (proc_pid_comm(5) has at most 16).
const LONGEST_NAME: usize = 64;
/// How long a port may take to answer a probe.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Ports that are probed at a time.
const PROBES: usize = 16;
const REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n";

/// The sockets that wait for others.
pub(crate) async fn listening(probe: bool) -> Sockets {
    let mut sockets = Vec::new();
    for (protocol, table, state) in [
        ("tcp", "/proc/net/tcp", LISTEN),
        ("tcp", "/proc/net/tcp6", LISTEN),
        ("udp", "/proc/net/udp", UNCONNECTED),
        ("udp", "/proc/net/udp6", UNCONNECTED),
    ] {
        let text = image_file::read(Path::new(table)).unwrap_or_default();
        sockets.extend(parse(&text, protocol, state));
    }
    let owners = owners();
    let mut sockets: Vec<Socket> = sockets
        .into_iter()
        .map(|(mut socket, inode)| {
            if let Some(pid) = owners.get(&inode) {
                socket.pid = Some(*pid);
                socket.process = name(*pid);
            }
            socket
        })
        .collect();
    sockets.sort_by(|a, b| (&a.protocol, a.port, a.address).cmp(&(&b.protocol, b.port, b.address)));
    sockets.dedup();
    let cut = sockets.len() > MOST;
    sockets.truncate(MOST);
    if probe {
        probe_all(&mut sockets).await;
    }
    Sockets { sockets, cut }
}

/// The sockets of a table in one state, with their inodes.
fn parse(text: &str, protocol: &str, state: u8) -> Vec<(Socket, u64)> {
    let socket = |entry: Entry| {
        let socket = Socket {
            protocol: protocol.to_owned(),
            address: entry.local.ip(),
            port: entry.local.port(),
            pid: None,
            process: None,
            http: None,
        };
        (socket, entry.inode)
    };
    let fits = |entry: &Entry| entry.state == state;
    proc_net::entries(text).filter(fits).map(socket).collect()
}

/// The lowest process id for each socket's inode.
fn owners() -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|link| {
                let text = link.to_str()?;
                text.strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .parse()
                    .ok()
            });
            if let Some(inode) = inode {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

fn name(pid: u32) -> Option<String> {
    let name = image_file::read(Path::new(&format!("/proc/{pid}/comm"))).ok()?;
    Some(name.trim_end().chars().take(LONGEST_NAME).collect())
}

async fn probe_all(sockets: &mut [Socket]) {
    for some in sockets.chunks_mut(PROBES) {
        let asked: Vec<_> = some
            .iter()
            .map(|socket| {
                let wanted = socket.protocol == "tcp";
                let address = SocketAddr::new(reachable(socket.address), socket.port);
                tokio::task::spawn_local(async move {
                    match wanted {
                        true => timeout(PROBE_PATIENCE, ask(address)).await.ok().flatten(),
                        false => None,
                    }
                })
            })
            .collect();
        for (socket, status) in some.iter_mut().zip(asked) {
            socket.http = status.await.ok().flatten();
        }
    }
}

fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

async fn ask(address: SocketAddr) -> Option<u16> {
    let socket = TcpStream::connect(address).await.ok()?;
    let mut rest = REQUEST;
    while !rest.is_empty() {
        socket.writable().await.ok()?;
        match socket.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    let mut answer = Vec::new();
    while answer.len() < 64 && !answer.contains(&b'\n') {
        let mut buffer = [0; 64];
        socket.readable().await.ok()?;
        match socket.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    status(&answer)
}

/// `HTTP/1.0 200 OK` (RFC 9112, section 4).
fn status(answer: &[u8]) -> Option<u16> {
    let line = String::from_utf8_lossy(answer);
    let mut words = line.lines().next()?.split(' ');
    words.next()?.strip_prefix("HTTP/")?;
    words
        .next()?
        .parse()
        .ok()
        .filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_is_heard() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            socket.read_exact(&mut [0; REQUEST.len()]).unwrap();
            socket.write_all(b"HTTP/1.1 418 x\r\n\r\n").unwrap();
        });
        let status = crate::runtime().unwrap().block_on(ask(address));
        assert_eq!(status, Some(418));
        server.join().unwrap();
    }

    #[test]
    fn only_http_is_http() {
        for (answer, expected) in [
            (&b"HTTP/1.1 404 Not Found\r\n"[..], Some(404)),
            (b"HTTP/1.0 200", Some(200)),
            (b"SSH-2.0-x\r\n", None),
            (b"HTTP/1.1 9999 no\r\n", None),
            (b"", None),
        ] {
            assert_eq!(status(answer), expected);
        }
    }
}
