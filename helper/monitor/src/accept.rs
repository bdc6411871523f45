//! Connections to `agent.sock` and `control.sock`.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;

use crate::clients;
use crate::control;
use crate::event_loop::{AGENT_LISTENER, CONTROL_LISTENER, Monitor, add, edge_triggered};
use crate::socket::Socket;

/// Before connections are accepted again after that failed (no descriptors, no memory).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Connections taken before other work gets its turn.
const ACCEPTS: usize = 256;

impl Monitor {
    /// Begins to hear of connections.
    pub(crate) fn listen(&mut self) -> io::Result<()> {
        if let Some(listener) = &self.agent_listener {
            add(&self.epoll, listener, AGENT_LISTENER, EpollFlags::EPOLLIN)?;
        }
        self.listen_on_ports()?;
        let control = &self.vm.control;
        add(&self.epoll, control, CONTROL_LISTENER, EpollFlags::EPOLLIN)
    }

    pub(crate) fn accept_agent_clients(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(listener) = &self.agent_listener else {
                return;
            };
            let accepted = listener.accept();
            let Some(socket) = self.accepted(accepted) else {
                return;
            };
            // Closed at once when there are too many, or nobody to talk to.
            if self.clients.unpublished() < clients::MAX_CLIENTS
                && self.agent.is_some()
                && socket.set_nonblocking(true).is_ok()
                && let Some(token) = self.register(&socket, 0)
            {
                let socket = Socket::Unix(socket);
                self.clients.add(token, socket, Instant::now());
            }
        }
    }

    pub(crate) fn accept_control_clients(&mut self) {
        for _ in 0..ACCEPTS {
            let accepted = self.vm.control.accept();
            let Some(socket) = self.accepted(accepted) else {
                return;
            };
            if self.control.len() < control::MAX_CLIENTS
                && socket.set_nonblocking(true).is_ok()
                && let Some(token) = self.register(&socket, 1)
            {
                self.control.add(token, socket);
                self.control_ready.push(token);
            }
        }
    }

    /// A token of the given parity for a new socket; `None` when the kernel has no room for it.
    pub(crate) fn register(&mut self, socket: impl AsFd, parity: u64) -> Option<u64> {
        let token = self.next_token + parity;
        self.next_token += 2;
        add(&self.epoll, socket, token, edge_triggered()).ok()?;
        Some(token)
    }

    /// The connection, if there was one. Out of descriptors, a level-triggered listener would
    /// report for ever: then all are left alone for a while.
    pub(crate) fn accepted<T, A>(&mut self, result: io::Result<(T, A)>) -> Option<T> {
        let error = match result {
            Ok((socket, _)) => return Some(socket),
            Err(error) => error,
        };
        let harmless = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted
        );
        if !harmless && self.deaf_until.is_none() {
            if let Some(listener) = &self.agent_listener {
                let _ = self.epoll.delete(listener);
            }
            let _ = self.epoll.delete(&self.vm.control);
            self.ports.mute(&self.epoll);
            self.deaf_until = Some(Instant::now() + ACCEPT_PAUSE);
            let what = format_args!("cannot accept connections: {error}");
            self.vm.log.line(what);
        }
        None
    }
}
