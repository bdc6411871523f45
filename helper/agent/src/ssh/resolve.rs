//! Names of hosts, for forwarded connections: `/etc/hosts`, then the servers of `/etc/resolv.conf`.
//!
//! Never getaddrinfo(3): a static binary would load the guest's libraries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::image_file;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// resolv.conf(5) has no more servers.
const SERVERS: usize = 3;
const PORT: u16 = 53;
/// Record types and the class of RFC 1035 and RFC 3596.
const A: u16 = 1;
const AAAA: u16 = 28;
const IN: u16 = 1;

/// Addresses of a host, in the order to try them; none when it is unknown.
pub(super) async fn resolve(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    let local = host.eq_ignore_ascii_case("localhost") || host.is_empty();
    if local {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    let hosts = image_file::read(Path::new("/etc/hosts")).unwrap_or_default();
    let found = in_hosts(&hosts, host);
    if !found.is_empty() {
        return found;
    }
    let configuration = image_file::read(Path::new("/etc/resolv.conf")).unwrap_or_default();
    for server in servers(&configuration) {
        let asked = tokio::time::timeout(PATIENCE, ask(server, host)).await;
        if let Ok(Some(found)) = asked {
            return found;
        }
    }
    Vec::new()
}

/// Lines of hosts(5).
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|name| name.eq_ignore_ascii_case(host))
                .then_some(address)
        })
        .collect()
}

fn servers(configuration: &str) -> impl Iterator<Item = IpAddr> {
    configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .take(SERVERS)
}

/// Asks one server for both kinds of addresses. `None`: it does not answer.
async fn ask(server: IpAddr, host: &str) -> Option<Vec<IpAddr>> {
    let local: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel drops what comes from anybody else.
    let socket = UdpSocket::bind((local, 0)).await.ok()?;
    socket.connect((server, PORT)).await.ok()?;
    let mut found = Vec::new();
    for kind in [A, AAAA] {
        let id = random();
        socket.send(&question(id, host, kind)?).await.ok()?;
        let mut packet = [0; 4096];
        loop {
            let length = socket.recv(&mut packet).await.ok()?;
            if let Some(addresses) = answers(&packet[..length], id, kind) {
                found.extend(addresses);
                break;
            }
        }
    }
    Some(found)
}

/// Nobody off the path can guess the port and this.
fn random() -> u16 {
    let mut bytes = [0; 2];
    if let Ok(mut urandom) = std::fs::File::open("/dev/urandom") {
        let _ = std::io::Read::read_exact(&mut urandom, &mut bytes);
    }
    u16::from_ne_bytes(bytes)
}

/// A query (RFC 1035, section 4); `None` for what is no host name.
fn question(id: u16, host: &str, kind: u16) -> Option<Vec<u8>> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut packet = Vec::new();
    for number in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        packet.extend(number.to_be_bytes());
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.len() > 253 {
        return None;
    }
    for label in host.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..64).contains(n))?;
        packet.push(length);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend(IN.to_be_bytes());
    Some(packet)
}

/// The addresses in an answer; `None` when it is none to this question.
fn answers(packet: &[u8], id: u16, kind: u16) -> Option<Vec<IpAddr>> {
    const RESPONSE: u16 = 0x8000;
    let number = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    if number(0)? != id || number(2)? & RESPONSE == 0 {
        return None;
    }
    let (questions, records) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(packet, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..records {
        let start = after_name(packet, at)?;
        let (this, class) = (number(start)?, number(start + 2)?);
        let length = usize::from(number(start + 8)?);
        let data = packet.get(start + 10..start + 10 + length)?;
        if class == IN && this == kind {
            if let Ok(bytes) = <[u8; 4]>::try_from(data) {
                found.push(Ipv4Addr::from(bytes).into());
            } else if let Ok(bytes) = <[u8; 16]>::try_from(data) {
                found.push(Ipv6Addr::from(bytes).into());
            }
        }
        at = start + 10 + length;
    }
    Some(found)
}

/// Where a name ends; a pointer is its last part (RFC 1035, section 4.1.4).
fn after_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_servers_are_read_as_their_pages_say() {
        let hosts = "127.0.0.1 localhost # db\n10.0.0.5\tdb DB.example\n::5 db\nbad db\n";
        let addresses: Vec<String> = in_hosts(hosts, "Db")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["10.0.0.5", "::5"]);
        let text = "# x\nnameserver 10.0.2.3\nsearch a\nnameserver ::1\nnameserver\n";
        assert_eq!(servers(text).count(), 2);
    }

    #[test]
    fn an_answer_gives_its_addresses_behind_the_aliases() {
        let query = question(7, "www.example.", A).unwrap();
        let mut packet = query.clone();
        packet[2] = 0x81;
        packet[7] = 2;
        let alias = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12];
        let address = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1];
        packet.extend(alias);
        packet.extend(address);
        let expected: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(answers(&packet, 7, A), Some(vec![expected]));
        assert_eq!(answers(&packet, 8, A), None, "another question's");
        assert_eq!(answers(&query, 7, A), None, "no answer");
        for length in 0..packet.len() {
            assert_eq!(answers(&packet[..length], 7, A), None, "cut at {length}");
        }
        assert_eq!(question(7, "a..b", A), None);
        assert_eq!(question(7, &"a".repeat(64), A), None);
    }
}
