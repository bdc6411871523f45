//! One connection to `agent.sock`, `CONNECT <port>`, `OK <stream>`, then bytes both ways; or to a
//! published port, bytes only.

use std::io::{self, Read};
use std::net::Shutdown;
use std::time::Instant;

use banger_wire::mux::{Mux, StreamId};

use crate::buffer::Buffer;
use crate::socket::Socket;

/// Longest `CONNECT` line with its newline, in bytes.
const MAX_LINE: usize = 32;
/// Ports below are the guest's to dial.
const MIN_PORT: u32 = 1024;

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its line is not complete.
    Handshake,
    /// It waits for the guest to listen.
    Queued(u32),
    /// The guest has not answered.
    Opening(StreamId),
    /// Bytes flow.
    Open(StreamId),
    /// No stream any more; only what is left for the client is written.
    Draining,
}

/// What became of one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is more to do at once.
    Again,
    /// It waits for epoll.
    Wait,
    /// It has bytes for the guest that the mux does not take now.
    Starved,
    /// It is over; drop it.
    Over,
}

/// A client; the socket is registered edge-triggered.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: Socket,
    /// A connection to a published port: its bytes are the stream's from the beginning.
    pub(crate) published: bool,
    pub(crate) state: State,
    pub(crate) deadline: Option<Instant>,
    /// In the queue of clients that have something to do.
    pub(crate) scheduled: bool,
    readable: bool,
    writable: bool,
    hung_up: bool,
    /// For the client; at most a window and the `OK` line.
    output: Buffer,
    /// The handshake's bytes, then those that came with them.
    early: Vec<u8>,
    /// The client sends no more.
    client_done: bool,
    /// The guest sends no more.
    guest_done: bool,
    /// The client was told so.
    told: bool,
}

impl Client {
    pub(crate) fn new(socket: Socket, deadline: Instant) -> Self {
        Client {
            socket,
            published: false,
            state: State::Handshake,
            deadline: Some(deadline),
            scheduled: false,
            readable: true,
            writable: true,
            hung_up: false,
            output: Buffer::default(),
            early: Vec::new(),
            client_done: false,
            guest_done: false,
            told: false,
        }
    }

    /// A connection that wants to reach a port of the guest.
    pub(crate) fn published(socket: Socket, port: u32, deadline: Instant) -> Self {
        Client {
            published: true,
            state: State::Queued(port),
            ..Client::new(socket, deadline)
        }
    }

    /// Notes what epoll said. True when the client has just gone for good.
    pub(crate) fn wake(&mut self, readable: bool, writable: bool, hung_up: bool) -> bool {
        self.readable |= readable;
        self.writable |= writable;
        hung_up && !std::mem::replace(&mut self.hung_up, true)
    }

    /// The stream, while there is one.
    pub(crate) fn stream(&self) -> Option<StreamId> {
        match self.state {
            State::Opening(stream) | State::Open(stream) => Some(stream),
            State::Handshake | State::Queued(_) | State::Draining => None,
        }
    }

    /// Nobody will read or complete what this client waits for.
    pub(crate) fn is_lost(&self) -> bool {
        self.hung_up && self.stream().is_none()
    }

    /// The guest accepted.
    pub(crate) fn accepted(&mut self) {
        if let State::Opening(stream) = self.state {
            self.state = State::Open(stream);
            if !self.published {
                self.output.push(format!("OK {stream}\n").as_bytes());
            }
        }
    }

    /// Bytes from the guest; false when it sends before it accepted.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> bool {
        let open = matches!(self.state, State::Open(_));
        if open {
            self.output.push(bytes);
        }
        open
    }

    /// The guest sends no more; false when it says so before it accepted.
    pub(crate) fn finished(&mut self) -> bool {
        self.guest_done = true;
        matches!(self.state, State::Open(_))
    }

    /// The stream is gone; what arrived before is still written. False when there is nothing.
    pub(crate) fn cut(&mut self) -> bool {
        self.state = State::Draining;
        self.guest_done = true;
        self.client_done = true;
        !self.output.is_empty() && !self.hung_up
    }

    /// Reads the `CONNECT` line. Never reads further than a line can be long.
    pub(crate) fn handshake(&mut self) -> Turn {
        let mut bytes = [0; MAX_LINE];
        loop {
            match self.socket.read(&mut bytes[self.early.len()..]) {
                Ok(0) => return Turn::Over,
                Ok(count) => {
                    let start = self.early.len();
                    self.early.extend_from_slice(&bytes[start..start + count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Turn::Wait;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Turn::Over,
            }
            if let Some(end) = self.early.iter().position(|byte| *byte == b'\n') {
                let Some(port) = parse_connect(&self.early[..end]) else {
                    return Turn::Over;
                };
                self.early.drain(..=end);
                self.state = State::Queued(port);
                return Turn::Again;
            }
            if self.early.len() == MAX_LINE {
                return Turn::Over;
            }
        }
    }

    /// Moves bytes, at most one scratch buffer from the client.
    pub(crate) fn pump(&mut self, mux: &mut Mux, scratch: &mut [u8]) -> Turn {
        if self.drain(Some(mux)).is_err() {
            return self.give_up(mux);
        }
        if self.over() {
            return Turn::Over;
        }
        let Some(stream) = self.stream() else {
            return Turn::Wait;
        };
        if !self.early.is_empty() {
            let sent = mux.send(stream, &self.early);
            self.early.drain(..sent);
            if !self.early.is_empty() {
                return Turn::Starved;
            }
        }
        if self.client_done && self.hung_up && !self.guest_done {
            // It had finished, which was passed on; now it is gone, so nobody reads the answer.
            return self.give_up(mux);
        }
        if !self.readable || self.client_done {
            return Turn::Wait;
        }
        let room = mux.writable(stream).min(scratch.len());
        if room == 0 {
            return Turn::Starved;
        }
        match self.socket.read(&mut scratch[..room]) {
            // Gone for good, and the guest has not said its last word: nobody will hear it.
            Ok(0) if self.hung_up && !self.guest_done => self.give_up(mux),
            Ok(0) => {
                self.client_done = true;
                mux.finish(stream);
                if self.over() { Turn::Over } else { Turn::Wait }
            }
            Ok(count) => {
                mux.send(stream, &scratch[..count]);
                Turn::Again
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Turn::Wait
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Turn::Again,
            Err(_) => self.give_up(mux),
        }
    }

    /// Writes what is there for the client, without a mux when the channel is gone.
    pub(crate) fn drain(&mut self, mux: Option<&mut Mux>) -> io::Result<()> {
        if self.writable {
            let mut written = 0;
            let result = self.output.write_to(&mut &self.socket, &mut written);
            if let (Some(stream), Some(mux)) = (self.stream(), mux) {
                mux.consumed(stream, written);
            }
            self.writable = result?;
        }
        if self.guest_done && self.output.is_empty() && !self.told {
            self.told = true;
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Both directions are done.
    pub(crate) fn over(&self) -> bool {
        self.client_done && self.told
    }

    fn give_up(&mut self, mux: &mut Mux) -> Turn {
        if let Some(stream) = self.stream() {
            mux.reset(stream);
        }
        Turn::Over
    }
}

/// `CONNECT <port>` without its newline, as Firecracker's vsock understands it.
fn parse_connect(line: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(line.strip_prefix(b"CONNECT ")?).ok()?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|port| *port >= MIN_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_lines() {
        let table: [(&[u8], Option<u32>); 10] = [
            (b"CONNECT 1024", Some(1024)),
            (b"CONNECT 4294967295", Some(u32::MAX)),
            (b"CONNECT 4294967296", None),
            (b"CONNECT 1023", None),
            (b"CONNECT 1", None),
            (b"CONNECT +2000", None),
            (b"CONNECT 2000 ", None),
            (b"CONNECT", None),
            (b"connect 2000", None),
            (b"\xff\xfe", None),
        ];
        for (line, port) in table {
            assert_eq!(parse_connect(line), port, "{}", line.escape_ascii());
        }
    }
}
