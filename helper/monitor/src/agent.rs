//! The channel to the guest: the host's end of the mux and its socket.
//!
//! Registered edge-triggered; the flags say what epoll said last. The guest is hostile: while it
//! does not read, our answers to its frames would pile up, so then it is not read either.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use banger_wire::mux::{Event, Mux, MuxError, OUTPUT_HIGH_WATER, Side, StreamId};

/// Output that only a guest can cause that floods us with opens and reads nothing.
const OUTPUT_LIMIT: usize = 16 * OUTPUT_HIGH_WATER;

/// The mux and its socket.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: UnixStream,
    mux: Mux,
    greeted: bool,
    readable: bool,
    writable: bool,
}

/// The channel cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelEnd {
    #[error("closed by the VMM")]
    Closed,
    #[error(transparent)]
    Io(io::Error),
    #[error("the guest broke the protocol: {0}")]
    Protocol(#[from] MuxError),
}

impl From<io::Error> for ChannelEnd {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Its end was closed with bytes of ours in it.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ChannelEnd::Closed,
            _ => ChannelEnd::Io(error),
        }
    }
}

impl Agent {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Agent {
            socket,
            mux: Mux::new(Side::Host),
            greeted: false,
            readable: true,
            writable: true,
        }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    pub(crate) fn mux(&mut self) -> &mut Mux {
        &mut self.mux
    }

    /// Streams open through the mux.
    pub(crate) fn streams(&self) -> usize {
        self.mux.streams()
    }

    /// Notes what epoll said.
    pub(crate) fn wake(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// There is something to read, and room for what it causes.
    pub(crate) fn wants_read(&self) -> bool {
        self.readable && self.mux.output().len() < OUTPUT_LIMIT
    }

    /// There is something to do before epoll is asked again.
    pub(crate) fn has_work(&self) -> bool {
        self.wants_read() || (self.writable && !self.mux.output().is_empty())
    }

    /// Reads one scratch buffer; false when there is nothing (any more, for now).
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Result<bool, ChannelEnd> {
        match self.socket.read(scratch) {
            Ok(0) => Err(ChannelEnd::Closed),
            Ok(count) => {
                self.mux.receive(&scratch[..count])?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What the guest did next.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let event = self.mux.next_event();
        self.greeted |= matches!(event, Some(Event::Hello(_)));
        event
    }

    /// Writes what the socket takes. An end of the channel is seen by reading only: the guest's
    /// last bytes may still be unread when there is nobody left to write to.
    pub(crate) fn flush(&mut self) {
        while self.writable && !self.mux.output().is_empty() {
            match self.socket.write(self.mux.output()) {
                Ok(count) => self.mux.sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.readable = true;
                    self.mux.sent(self.mux.output().len());
                }
            }
        }
    }

    /// A stream can be opened now: the guest listens, and takes what it is sent.
    pub(crate) fn can_open(&self) -> bool {
        self.greeted && self.mux.output().len() < OUTPUT_HIGH_WATER
    }

    /// Opens a stream; `None` while [`Agent::can_open`] is false or too many are open.
    pub(crate) fn open(&mut self, port: u32) -> Option<StreamId> {
        if self.can_open() {
            self.mux.open(port).ok()
        } else {
            None
        }
    }
}
