//! Who listens in the guest: /proc/net/{tcp,tcp6,udp,udp6} joined with /proc/*/fd.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use banger_wire::agent::{Socket, Sockets};
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

const LISTEN: &str = "0A";
/// What udp shows for a socket that is bound and not connected: TCP_CLOSE.
const UNCONNECTED: &str = "07";

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

/// Lines of a table with the inode of each socket (proc_pid_net(5)).
fn parse(text: &str, protocol: &str, state: &str) -> Vec<(Socket, u64)> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(3) != Some(&state) {
            return None;
        }
        let (address, port) = words.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16)
            .ok()
            .filter(|port| *port > 0)?;
        let socket = Socket {
            protocol: protocol.to_owned(),
            address: self::address(address)?,
            port,
            pid: None,
            process: None,
            http: None,
        };
        Some((socket, words.get(9)?.parse().ok()?))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Words of the address in the processor's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok();
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
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
    fn tables_of_the_kernel_are_understood() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1 0 100 0 0 10 0\n\
             1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 4712 1 0 100 0 0 10 0\n\
             2: garbage\n";
        let found = parse(tcp, "tcp", LISTEN);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, 4711);
        assert_eq!(
            (found[0].0.address, found[0].0.port),
            (Ipv4Addr::LOCALHOST.into(), 8080)
        );
        assert_eq!(
            address("00000000000000000000000001000000"),
            Some(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!((address(""), address("0100007é")), (None, None));
    }

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
