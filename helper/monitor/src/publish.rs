//! Published ports: listeners of the host whose connections become streams to TCP ports of the guest.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use banger_wire::monitor::{ControlReply, Publish};
use banger_wire::port;
use nix::sys::epoll::{Epoll, EpollFlags};

use crate::event_loop::{Monitor, add};
use crate::launch::LaunchError;
use crate::log::chain;
use crate::socket::Socket;

/// Tokens of listeners have this bit; those of clients never will.
pub(crate) const TOKEN: u64 = 1 << 63;
/// Connections taken before other work gets its turn.
const ACCEPTS: usize = 64;
/// More published ports of one VM are a mistake.
const MOST: usize = 128;

/// The listeners.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    listeners: Vec<(u64, Publish, TcpListener)>,
    next: u64,
}

impl Ports {
    pub(crate) fn new(listeners: Vec<(Publish, TcpListener)>) -> Ports {
        let mut ports = Ports::default();
        for (publish, listener) in listeners {
            ports.insert(publish, listener);
        }
        ports
    }

    fn insert(&mut self, publish: Publish, listener: TcpListener) -> u64 {
        let token = TOKEN | self.next;
        self.next += 1;
        self.listeners.push((token, publish, listener));
        token
    }

    /// Hears of no connections, until all are listened to again.
    pub(crate) fn mute(&self, epoll: &Epoll) {
        for (_, _, listener) in &self.listeners {
            let _ = epoll.delete(listener);
        }
    }
}

/// A listener for a port.
pub(crate) fn bind(publish: Publish) -> Result<TcpListener, LaunchError> {
    let address = SocketAddr::new(publish.address, publish.host_port);
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => LaunchError::PortInUse(address),
        _ => LaunchError::Listen { address, source },
    })
}

impl Monitor {
    /// Begins to hear of connections to all published ports.
    pub(crate) fn listen_on_ports(&self) -> io::Result<()> {
        for (token, _, listener) in &self.ports.listeners {
            add(&self.epoll, listener, *token, EpollFlags::EPOLLIN)?;
        }
        Ok(())
    }

    pub(crate) fn publish(&mut self, publish: Publish) -> ControlReply {
        let error = |message: String| ControlReply::Error { message };
        if self
            .ports
            .listeners
            .iter()
            .any(|(_, known, _)| *known == publish)
        {
            return ControlReply::Done;
        }
        if self.ports.listeners.len() >= MOST {
            return error(format!("{MOST} ports are published already"));
        }
        let listener = match bind(publish) {
            Ok(listener) => listener,
            Err(LaunchError::PortInUse(address)) => return ControlReply::PortInUse { address },
            Err(other) => return error(chain(&other)),
        };
        let token = TOKEN | self.ports.next;
        // Deaf for want of descriptors, all are listened to later.
        if self.deaf_until.is_none()
            && let Err(failed) = add(&self.epoll, &listener, token, EpollFlags::EPOLLIN)
        {
            return error(failed.to_string());
        }
        self.ports.insert(publish, listener);
        ControlReply::Done
    }

    pub(crate) fn unpublish(&mut self, publish: Publish) -> ControlReply {
        // Closing it takes it out of the epoll, too.
        self.ports
            .listeners
            .retain(|(_, known, _)| *known != publish);
        ControlReply::Done
    }

    pub(crate) fn accept_on_port(&mut self, token: u64) {
        for _ in 0..ACCEPTS {
            let found = self
                .ports
                .listeners
                .iter()
                .find(|(known, ..)| *known == token);
            let Some((_, publish, listener)) = found else {
                return;
            };
            let guest_port = port::TCP + u32::from(publish.guest_port);
            let accepted = listener.accept();
            let Some(socket) = self.accepted(accepted) else {
                return;
            };
            // Closed at once when there are too many, or nobody to talk to.
            if self.agent.is_some()
                && socket.set_nonblocking(true).is_ok()
                && socket.set_nodelay(true).is_ok()
                && let Some(token) = self.register(&socket, 0)
            {
                let socket = Socket::Tcp(socket);
                self.clients
                    .add_published(token, socket, guest_port, Instant::now());
            }
        }
    }
}
