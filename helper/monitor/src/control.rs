//! `control.sock`: one JSON request a line, one JSON reply a line, in the order in which the
//! answers become known.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use banger_wire::monitor::{ControlReply, ControlRequest};

use crate::buffer::{Buffer, Lines};

/// Connections at a time; more are closed at once.
pub(crate) const MAX_CLIENTS: usize = 128;
const MAX_LINE: usize = 4096;
/// Answers a client may leave unread before its requests are left unread as well.
const MAX_OUTPUT: usize = 64 * 1024;
/// Requests of one client that wait for something to happen.
const MAX_WAITS: usize = 32;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Readiness, failure or the end.
    Ready,
    /// The end.
    Exit,
}

/// A line of a client's: a request, or why it is none.
pub(crate) type Request = Result<ControlRequest, String>;

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    lines: Lines,
    output: Buffer,
    waits: Vec<Wait>,
    /// The VM ends with this client.
    tether: bool,
    readable: bool,
    writable: bool,
    hung_up: bool,
    done: bool,
}

/// The clients by token; sockets are registered edge-triggered.
#[derive(Debug, Default)]
pub(crate) struct Control {
    clients: HashMap<u64, Client>,
    tether_broken: bool,
}

impl Control {
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Answers wait to be taken by their clients.
    pub(crate) fn has_output(&self) -> bool {
        self.clients
            .values()
            .any(|client| !client.output.is_empty())
    }

    pub(crate) fn add(&mut self, token: u64, socket: UnixStream) {
        let client = Client {
            socket,
            lines: Lines::new(MAX_LINE),
            output: Buffer::default(),
            waits: Vec::new(),
            tether: false,
            readable: true,
            writable: true,
            hung_up: false,
            done: false,
        };
        self.clients.insert(token, client);
    }

    /// Notes what epoll said.
    pub(crate) fn wake(&mut self, token: u64, readable: bool, writable: bool, hung_up: bool) {
        if let Some(client) = self.clients.get_mut(&token) {
            client.readable |= readable;
            client.writable |= writable;
            client.hung_up |= hung_up;
        }
    }

    /// Reads the requests that are there.
    pub(crate) fn read(&mut self, token: u64, scratch: &mut [u8]) -> Vec<Request> {
        let mut requests = Vec::new();
        let Some(client) = self.clients.get_mut(&token) else {
            return requests;
        };
        let size = scratch.len().min(MAX_LINE);
        while client.readable && !client.done && client.output.len() < MAX_OUTPUT {
            match client.socket.read(&mut scratch[..size]) {
                Ok(0) => client.done = true,
                Ok(count) => {
                    let pushed = client.lines.push(&scratch[..count], |line| {
                        requests.push(serde_json::from_slice(line).map_err(|e| e.to_string()));
                    });
                    if let Err(error) = pushed {
                        requests.push(Err(error.to_string()));
                        client.done = true;
                    }
                    // The answers count against the limit before more is read.
                    if !requests.is_empty() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => client.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    client.hung_up = true;
                    client.done = true;
                }
            }
        }
        requests
    }

    /// Queues an answer.
    pub(crate) fn reply(&mut self, token: u64, reply: &ControlReply) {
        if let (Some(client), Ok(mut line)) =
            (self.clients.get_mut(&token), serde_json::to_vec(reply))
        {
            line.push(b'\n');
            client.output.push(&line);
        }
    }

    /// Remembers that an answer is owed.
    pub(crate) fn wait(&mut self, token: u64, wait: Wait) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        if client.waits.len() < MAX_WAITS {
            client.waits.push(wait);
        } else {
            let message = format!("more than {MAX_WAITS} requests wait for an answer");
            self.reply(token, &ControlReply::Error { message });
        }
    }

    /// Makes the VM's life depend on this client.
    pub(crate) fn tether(&mut self, token: u64) {
        if let Some(client) = self.clients.get_mut(&token) {
            client.tether = true;
        }
    }

    /// The VM's life depends on this client no longer.
    pub(crate) fn untether(&mut self, token: u64) {
        if let Some(client) = self.clients.get_mut(&token) {
            client.tether = false;
        }
    }

    /// A client that the VM's life depended on is gone.
    pub(crate) fn tether_broken(&self) -> bool {
        self.tether_broken
    }

    /// Answers all who wait for this; returns whom.
    pub(crate) fn answer(&mut self, wait: Wait, reply: &ControlReply) -> Vec<u64> {
        let mut answered = Vec::new();
        for (token, client) in &mut self.clients {
            let count = client.waits.iter().filter(|w| **w == wait).count();
            client.waits.retain(|w| *w != wait);
            answered.extend(std::iter::repeat_n(*token, count));
        }
        for token in &answered {
            self.reply(*token, reply);
        }
        answered.dedup();
        answered
    }

    /// Writes what the client takes, and forgets it when it is over. True when more of its
    /// requests may be read at once.
    pub(crate) fn flush(&mut self, token: u64) -> bool {
        let Some(client) = self.clients.get_mut(&token) else {
            return false;
        };
        let mut failed = client.hung_up;
        if client.writable && !failed {
            match client.output.write_to(&mut &client.socket, &mut 0) {
                Ok(writable) => client.writable = writable,
                Err(_) => failed = true,
            }
        }
        if failed || (client.done && client.waits.is_empty() && client.output.is_empty()) {
            self.tether_broken |= client.tether;
            self.clients.remove(&token);
            return false;
        }
        client.readable && !client.done && client.output.len() < MAX_OUTPUT
    }
}
