//! Many streams over one byte channel: a sans-IO state machine with credit per stream.
//!
//! Frame: `kind: u8`, three zero bytes, `stream: u32`, `length: u32` (little-endian), payload. Each
//! side begins with `HELLO`. The host opens odd streams, the guest even ones. A sender may have at
//! most [`WINDOW`] unacknowledged bytes per stream, so a peer that stalls one stream stalls no other,
//! and memory is bounded by `streams × WINDOW` whatever the peer sends. A receiver that has memory for
//! more gives more credit ([`Mux::widen`]).

use std::collections::{HashMap, VecDeque};

/// Bytes a sender may have in flight on one stream, unless its receiver gives it more.
pub const WINDOW: u32 = 256 * 1024;
/// Bytes a receiver may let be in flight on one stream.
pub const MAX_WINDOW: u32 = 16 * WINDOW;
/// Largest payload of a `DATA` frame, in bytes.
pub const MAX_DATA: usize = 32 * 1024;
/// Streams one side may have open at once.
pub const MAX_STREAMS: usize = 1024;
/// [`Mux::send`] accepts nothing while this many bytes wait for the channel.
pub const OUTPUT_HIGH_WATER: usize = 256 * 1024;
/// Capacity that [`Mux::output`] keeps: for a window with its headers, or a stream that uses all of its own would have
/// it allocated each time.
const OUTPUT_KEPT: usize = WINDOW as usize + 4096;

const HEADER: usize = 12;
const MAGIC: &[u8; 8] = b"bngrmux\0";
/// How every channel begins: the header of its `HELLO`, and the magic.
const BEGINNING: &[u8; 20] = b"\x01\0\0\0\0\0\0\0\x0a\0\0\0bngrmux\0";

const HELLO: u8 = 1;
const OPEN: u8 = 2;
const ACCEPT: u8 = 3;
const DATA: u8 = 4;
const CREDIT: u8 = 5;
const FINISH: u8 = 6;
const RESET: u8 = 7;

/// A stream's number.
pub type StreamId = u32;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens odd streams.
    Host,
    /// Opens even streams.
    Guest,
}

/// What the peer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer said `HELLO` with this protocol version.
    Hello(u16),
    /// The peer opens a stream to a port; answer with [`Mux::accept`] or [`Mux::reset`].
    Opened(StreamId, u32),
    /// Our open was accepted.
    Accepted(StreamId),
    /// Bytes; give the credit back with [`Mux::consumed`] once they have left our memory.
    Data(StreamId, Vec<u8>),
    /// The peer will send no more on this stream.
    Finished(StreamId),
    /// The stream is gone in both directions.
    Reset(StreamId),
}

/// The peer broke the protocol; the channel cannot be used any more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MuxError {
    /// The first frame was not our `HELLO`.
    #[error("the peer does not speak the mux protocol")]
    BadHello,
    /// Unknown kind or a length that the kind does not allow.
    #[error("malformed frame of kind {kind} with {length} bytes")]
    BadFrame {
        /// Frame kind.
        kind: u8,
        /// Announced payload length.
        length: u32,
    },
    /// The peer opened a stream of the wrong parity, twice, or too many.
    #[error("the peer opened stream {0} against the rules")]
    BadOpen(StreamId),
    /// The peer sent more than its credit.
    #[error("the peer overran the window of stream {0}")]
    Overrun(StreamId),
    /// We have [`MAX_STREAMS`] open.
    #[error("too many open streams (the limit is {MAX_STREAMS})")]
    TooManyStreams,
}

#[derive(Debug)]
struct Stream {
    accepted: bool,
    send_credit: u32,
    /// What the peer may have in flight to us.
    window: u32,
    receive_credit: u32,
    unreturned: u32,
    sent_finish: bool,
    received_finish: bool,
}

impl Stream {
    fn new(accepted: bool) -> Self {
        Stream {
            accepted,
            send_credit: WINDOW,
            window: WINDOW,
            receive_credit: WINDOW,
            unreturned: 0,
            sent_finish: false,
            received_finish: false,
        }
    }
}

/// Whether `bytes` begin with a `HELLO`, as the first bytes of every channel do. A port that outlives
/// its host, as at a restore, delivers a new channel's first bytes at the start of a read. Nothing else that a host
/// sends has these bytes anywhere: not the content of a file either ([`Mux::send`]).
pub fn begins_channel(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGINNING)
}

/// A frame as far as it has arrived.
#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: StreamId,
    length: usize,
    payload: Vec<u8>,
}

impl Frame {
    fn missing(&self) -> usize {
        self.length - self.payload.len()
    }
}

/// One end of the mux.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    next: StreamId,
    greeted: bool,
    streams: HashMap<StreamId, Stream>,
    /// The beginning of a header.
    header: Vec<u8>,
    /// A frame whose end has not arrived.
    partial: Option<Frame>,
    output: Vec<u8>,
    output_start: usize,
    events: VecDeque<Event>,
}

impl Mux {
    /// A new end; its `HELLO` waits in [`Mux::output`].
    pub fn new(side: Side) -> Self {
        let mut mux = Mux {
            side,
            next: if side == Side::Host { 1 } else { 2 },
            greeted: false,
            streams: HashMap::new(),
            header: Vec::with_capacity(HEADER),
            partial: None,
            output: Vec::new(),
            output_start: 0,
            events: VecDeque::new(),
        };
        let mut hello = MAGIC.to_vec();
        hello.extend_from_slice(&crate::PROTOCOL.to_le_bytes());
        mux.frame(HELLO, 0, &hello);
        mux
    }

    /// Takes bytes that arrived on the channel.
    ///
    /// # Errors
    /// The peer broke the protocol; drop the channel.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), MuxError> {
        loop {
            let mut frame = match self.partial.take() {
                Some(frame) => frame,
                None => match self.next_header(&mut bytes)? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            // Gathered where it stays: these are all the bytes of every stream.
            let (payload, rest) = bytes.split_at(frame.missing().min(bytes.len()));
            frame.payload.extend_from_slice(payload);
            bytes = rest;
            if frame.missing() > 0 {
                self.partial = Some(frame);
                return Ok(());
            }
            self.handle(frame.kind, frame.stream, frame.payload)?;
        }
    }

    /// A frame without its payload; none when `bytes` end before it begins.
    fn next_header(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, MuxError> {
        let (more, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
        self.header.extend_from_slice(more);
        *bytes = rest;
        let Some(header) = self.header.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let kind = header[0];
        let stream = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        self.header.clear();
        self.check_header(kind, length)?;
        Ok(Some(Frame {
            kind,
            stream,
            length: length as usize,
            payload: Vec::with_capacity(length as usize),
        }))
    }

    fn check_header(&self, kind: u8, length: u32) -> Result<(), MuxError> {
        if !self.greeted && (kind != HELLO || length as usize != MAGIC.len() + 2) {
            return Err(MuxError::BadHello);
        }
        let allowed = match kind {
            HELLO => !self.greeted,
            OPEN | CREDIT => length == 4,
            ACCEPT | FINISH | RESET => length == 0,
            DATA => length > 0 && length as usize <= MAX_DATA,
            _ => false,
        };
        if allowed {
            Ok(())
        } else {
            Err(MuxError::BadFrame { kind, length })
        }
    }

    fn handle(&mut self, kind: u8, id: StreamId, payload: Vec<u8>) -> Result<(), MuxError> {
        match kind {
            HELLO => {
                let (magic, version) = payload.split_at(MAGIC.len());
                if magic != MAGIC {
                    return Err(MuxError::BadHello);
                }
                self.greeted = true;
                self.events
                    .push_back(Event::Hello(u16::from_le_bytes([version[0], version[1]])));
            }
            OPEN => self.peer_opened(id, word(&payload))?,
            ACCEPT => {
                if let Some(stream) = self.streams.get_mut(&id)
                    && !std::mem::replace(&mut stream.accepted, true)
                {
                    self.events.push_back(Event::Accepted(id));
                }
            }
            DATA => self.peer_sent(id, payload)?,
            CREDIT => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.send_credit = stream
                        .send_credit
                        .saturating_add(word(&payload))
                        .min(MAX_WINDOW);
                }
            }
            FINISH => {
                if let Some(stream) = self.streams.get_mut(&id)
                    && !std::mem::replace(&mut stream.received_finish, true)
                {
                    self.events.push_back(Event::Finished(id));
                    self.forget_if_done(id);
                }
            }
            _ => {
                if self.streams.remove(&id).is_some() {
                    self.events.push_back(Event::Reset(id));
                }
            }
        }
        Ok(())
    }

    fn peer_opened(&mut self, id: StreamId, port: u32) -> Result<(), MuxError> {
        let peer_parity = if self.side == Side::Host { 0 } else { 1 };
        if id == 0 || id % 2 != peer_parity || self.streams.contains_key(&id) {
            return Err(MuxError::BadOpen(id));
        }
        if self.streams.len() >= 2 * MAX_STREAMS {
            self.frame(RESET, id, &[]);
            return Ok(());
        }
        self.streams.insert(id, Stream::new(false));
        self.events.push_back(Event::Opened(id, port));
        Ok(())
    }

    fn peer_sent(&mut self, id: StreamId, payload: Vec<u8>) -> Result<(), MuxError> {
        // Data for a stream that we reset a moment ago is still under way: drop it.
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let length = payload.len() as u32;
        if stream.received_finish || length > stream.receive_credit {
            return Err(MuxError::Overrun(id));
        }
        stream.receive_credit -= length;
        self.events.push_back(Event::Data(id, payload));
        Ok(())
    }

    /// The next thing that the peer did.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Asks the peer for a stream to a port. Data may be sent before it is accepted.
    ///
    /// # Errors
    /// [`MuxError::TooManyStreams`].
    pub fn open(&mut self, port: u32) -> Result<StreamId, MuxError> {
        if self.streams.len() >= MAX_STREAMS {
            return Err(MuxError::TooManyStreams);
        }
        let id = loop {
            let id = self.next;
            // Ids wrap after two thousand million streams; 0 is never used.
            self.next = self
                .next
                .checked_add(2)
                .unwrap_or(if self.side == Side::Host { 1 } else { 2 });
            if !self.streams.contains_key(&id) {
                break id;
            }
        };
        self.streams.insert(id, Stream::new(false));
        self.frame(OPEN, id, &port.to_le_bytes());
        Ok(id)
    }

    /// Accepts a stream that the peer opened.
    pub fn accept(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.accepted = true;
            self.frame(ACCEPT, id, &[]);
        }
    }

    /// Ends a stream in both directions; pending data of it may be lost.
    pub fn reset(&mut self, id: StreamId) {
        if self.streams.remove(&id).is_some() {
            self.frame(RESET, id, &[]);
        }
    }

    /// Says that we will send no more on this stream.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.sent_finish, true)
        {
            self.frame(FINISH, id, &[]);
            self.forget_if_done(id);
        }
    }

    /// How many bytes [`Mux::send`] would take now; at most a [`WINDOW`], however much the peer wants.
    pub fn writable(&self, id: StreamId) -> usize {
        if self.output().len() >= OUTPUT_HIGH_WATER {
            return 0;
        }
        match self.streams.get(&id) {
            Some(stream) if !stream.sent_finish => stream.send_credit.min(WINDOW) as usize,
            _ => 0,
        }
    }

    /// Queues as much of `bytes` as the stream's credit and the channel allow; returns how much.
    pub fn send(&mut self, id: StreamId, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(self.writable(id))];
        let mut left = bytes;
        while !left.is_empty() {
            let (piece, rest) = left.split_at(self.piece(left));
            self.frame(DATA, id, piece);
            left = rest;
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send_credit -= bytes.len() as u32;
        }
        bytes.len()
    }

    /// How many of `bytes` go into the next frame: from the host never what looks like a channel's beginning.
    fn piece(&self, bytes: &[u8]) -> usize {
        let most = &bytes[..bytes.len().min(MAX_DATA)];
        let beginning = match self.side {
            Side::Host => memchr::memmem::find(most, BEGINNING),
            Side::Guest => None,
        };
        beginning.map_or(most.len(), |at| at + BEGINNING.len() - 1)
    }

    /// Gives credit back to the peer for received bytes that left our memory.
    pub fn consumed(&mut self, id: StreamId, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.unreturned += bytes as u32;
        // In parts of the window, so that credit frames stay rare; often enough for a peer that keeps to [`WINDOW`].
        let due = match stream.window {
            WINDOW => WINDOW / 4,
            wider => (wider / 2).min(WINDOW),
        };
        if stream.unreturned >= due && !stream.received_finish {
            let credit = std::mem::take(&mut stream.unreturned);
            stream.receive_credit += credit;
            self.frame(CREDIT, id, &credit.to_le_bytes());
        }
    }

    /// Lets the peer have `window` bytes in flight on this stream, at most [`MAX_WINDOW`]; never less than before.
    pub fn widen(&mut self, id: StreamId, window: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let more = window.min(MAX_WINDOW).saturating_sub(stream.window);
        if more > 0 && !stream.received_finish {
            stream.window += more;
            stream.receive_credit += more;
            self.frame(CREDIT, id, &more.to_le_bytes());
        }
    }

    /// Number of streams that are open in at least one direction.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether the stream is open in at least one direction.
    pub fn is_open(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id)
    }

    /// Bytes for the channel.
    pub fn output(&self) -> &[u8] {
        &self.output[self.output_start..]
    }

    /// The channel took this many bytes of [`Mux::output`].
    pub fn sent(&mut self, bytes: usize) {
        self.output_start += bytes;
        if self.output_start == self.output.len() {
            self.output.clear();
            self.output_start = 0;
            self.output.shrink_to(OUTPUT_KEPT);
        } else if self.output_start >= OUTPUT_HIGH_WATER {
            self.output.drain(..self.output_start);
            self.output_start = 0;
        }
    }

    fn forget_if_done(&mut self, id: StreamId) {
        if self
            .streams
            .get(&id)
            .is_some_and(|s| s.sent_finish && s.received_finish)
        {
            self.streams.remove(&id);
        }
    }

    fn frame(&mut self, kind: u8, id: StreamId, payload: &[u8]) {
        self.output.extend_from_slice(&[kind, 0, 0, 0]);
        self.output.extend_from_slice(&id.to_le_bytes());
        self.output
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.output.extend_from_slice(payload);
    }
}

fn word(payload: &[u8]) -> u32 {
    payload
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
