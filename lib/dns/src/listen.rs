//! Sockets: those that systemd passes (sd_listen_fds(3)), and those of our own.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, getsockname,
    getsockopt, listen, setsockopt, sockopt,
};

use crate::respond::Role;
use crate::{DnsError, sys};

/// The first number of a passed descriptor (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// `FileDescriptorName=` of the host's sockets, and of the guests'.
const NAMES: [(&str, Role); 2] = [("host", Role::Host), ("guests", Role::Guests)];

/// A socket, and whom it serves.
#[derive(Debug)]
pub enum Socket {
    /// UDP.
    Datagrams(Role, UdpSocket),
    /// TCP, listening.
    Streams(Role, TcpListener),
}

impl Socket {
    /// Where it is.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Datagrams(_, socket) => socket.local_addr(),
            Socket::Streams(_, socket) => socket.local_addr(),
        }
    }

    /// Whom it serves.
    pub fn role(&self) -> Role {
        match self {
            Socket::Datagrams(role, _) | Socket::Streams(role, _) => *role,
        }
    }
}

/// UDP and TCP at an address; with port 0, the same one for both.
///
/// # Errors
/// [`DnsError::Listen`].
pub fn bind(address: SocketAddr, role: Role) -> Result<[Socket; 2], DnsError> {
    let failed = |source| DnsError::Listen { address, source };
    let streams = TcpListener::from(socket(address, SockType::Stream, role).map_err(failed)?);
    let bound = streams.local_addr().map_err(failed)?;
    let datagrams = UdpSocket::from(socket(bound, SockType::Datagram, role).map_err(failed)?);
    Ok([
        Socket::Datagrams(role, datagrams),
        Socket::Streams(role, streams),
    ])
}

fn socket(address: SocketAddr, kind: SockType, role: Role) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = nix::sys::socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if role == Role::Guests && family == AddressFamily::Inet {
        // The bridge comes with the first VM (ip(7), IP_FREEBIND).
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if kind == SockType::Stream {
        listen(&socket, Backlog::new(BACKLOG)?)?;
    }
    Ok(socket)
}

/// The sockets that systemd passes to this process; none without it.
///
/// # Errors
/// [`DnsError::Passed`].
pub fn passed() -> Result<Vec<Socket>, DnsError> {
    let variable = |name| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = variable("LISTEN_FDS").and_then(|count| count.parse::<RawFd>().ok());
    let Some(count) = count.filter(|_| ours) else {
        return Ok(Vec::new());
    };
    if !(1..=64).contains(&count) {
        return Err(DnsError::Passed(format!("{count} are too many, or none")));
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(Some).chain(std::iter::repeat(None));
    (FIRST..FIRST + count)
        .zip(names)
        .map(|(number, name)| adopt(number, name.unwrap_or_default()))
        .collect()
}

fn adopt(number: RawFd, name: &str) -> Result<Socket, DnsError> {
    let role = NAMES.iter().find(|(known, _)| *known == name);
    let (_, role) = role.ok_or_else(|| {
        let why = "FileDescriptorName= must be host or guests";
        DnsError::Passed(format!("descriptor {number} is named {name:?}: {why}"))
    })?;
    let failed = |error: io::Error| DnsError::Passed(format!("descriptor {number}: {error}"));
    let descriptor = sys::passed_descriptor(number).map_err(failed)?;
    let address = getsockname::<SockaddrStorage>(descriptor.as_raw_fd());
    let family = address.map_err(|error| failed(error.into()))?.family();
    if !matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6)) {
        return Err(DnsError::Passed(format!(
            "descriptor {number} is no socket of UDP or TCP"
        )));
    }
    let kind = getsockopt(&descriptor, sockopt::SockType).map_err(|e| failed(e.into()))?;
    let listens = getsockopt(&descriptor, sockopt::AcceptConn).map_err(|e| failed(e.into()))?;
    match (kind, listens) {
        (SockType::Datagram, _) => Ok(Socket::Datagrams(*role, UdpSocket::from(descriptor))),
        (SockType::Stream, true) => Ok(Socket::Streams(*role, TcpListener::from(descriptor))),
        _ => Err(DnsError::Passed(format!(
            "descriptor {number} does not listen"
        ))),
    }
}
