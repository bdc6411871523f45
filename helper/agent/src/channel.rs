//! Streams to the host over one [`Port`]: the wire's sans-IO [`Mux`] with tasks waiting on it.
//!
//! One task runs [`Channel::run`]; any number of tasks own a [`Stream`] each. Memory is bounded by
//! the mux's credit, because credit goes back only when a task takes the bytes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;

use banger_wire::mux::{Event, Mux, MuxError, OUTPUT_HIGH_WATER, Side, StreamId, begins_channel};
use tokio::sync::Notify;

use crate::port::{PAGE, PAGES, Port, Step};

/// Read of the port before others get their turn, in bytes.
const TURN: usize = PAGES * PAGE;

/// The stream was reset, or the whole channel was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Why the channel cannot go on.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// The host's side is closed.
    Closed,
    /// The port failed.
    Port(io::Error),
    /// The host broke the protocol.
    Protocol(MuxError),
}

impl std::fmt::Display for ChannelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChannelError::Closed => write!(f, "the host closed the port"),
            ChannelError::Port(error) => write!(f, "the port to the host failed: {error}"),
            ChannelError::Protocol(error) => write!(f, "the host broke the protocol: {error}"),
        }
    }
}

/// All streams to the host.
#[derive(Debug)]
pub(crate) struct Channel {
    mux: RefCell<Mux>,
    streams: RefCell<HashMap<StreamId, Rc<State>>>,
    wake: Notify,
    drained: Notify,
    greeted: Cell<bool>,
    /// The port had something to read in the last turn, so another turn follows at once.
    moving: Cell<bool>,
    generation: Cell<u64>,
    restarted: Notify,
}

#[derive(Debug, Default)]
struct State {
    inbox: RefCell<VecDeque<Vec<u8>>>,
    finished: Cell<bool>,
    gone: Cell<bool>,
    accepted: Cell<bool>,
    answered: Notify,
    readable: Notify,
    writable: Notify,
}

impl State {
    fn end(&self) {
        self.gone.set(true);
        self.readable.notify_one();
        self.writable.notify_one();
        self.answered.notify_one();
    }
}

/// One stream; dropping it before both sides finished resets it.
#[derive(Debug)]
pub(crate) struct Stream {
    channel: Rc<Channel>,
    id: StreamId,
    state: Rc<State>,
}

impl Channel {
    pub(crate) fn new() -> Rc<Channel> {
        Rc::new(Channel {
            mux: RefCell::new(Mux::new(Side::Guest)),
            streams: RefCell::default(),
            wake: Notify::new(),
            drained: Notify::new(),
            greeted: Cell::new(false),
            moving: Cell::new(false),
            generation: Cell::new(0),
            restarted: Notify::new(),
        })
    }

    /// Moves bytes between the port and the streams until the channel ends; gives each stream
    /// that the host opens to `opened`, which drops what it does not serve.
    pub(crate) async fn run(
        self: &Rc<Self>,
        port: &Port,
        mut opened: impl FnMut(Stream, u32),
    ) -> ChannelError {
        let mut buffer = vec![0; TURN];
        loop {
            match self.turn(port, &mut buffer, &mut opened) {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => {
                    let changed = tokio::select! {
                        changed = port.changed() => changed,
                        () = self.wake.notified() => Ok(()),
                    };
                    if let Err(error) = changed {
                        return ChannelError::Port(error);
                    }
                }
                Err(error) => return error,
            }
        }
    }

    fn turn(
        self: &Rc<Self>,
        port: &Port,
        buffer: &mut [u8],
        opened: &mut impl FnMut(Stream, u32),
    ) -> Result<bool, ChannelError> {
        let mut left = buffer.len();
        self.moving.set(false);
        while left > 0 {
            match port.read(&mut buffer[..left]).map_err(ChannelError::Port)? {
                Step::Moved(n) => {
                    left -= n;
                    self.moving.set(true);
                    let received = self.receive(&buffer[..n]);
                    self.dispatch(opened);
                    self.wake_senders();
                    received.map_err(ChannelError::Protocol)?;
                }
                Step::Blocked => {
                    self.moving.set(false);
                    break;
                }
                Step::Closed => return Err(ChannelError::Closed),
            }
        }
        let moved = left < buffer.len();
        Ok(self.flush(port)? || moved)
    }

    fn receive(self: &Rc<Self>, bytes: &[u8]) -> Result<(), MuxError> {
        for page in bytes.chunks(PAGE) {
            if self.greeted.replace(true) && begins_channel(page) {
                self.restart();
                self.greeted.set(true);
            }
            self.mux.borrow_mut().receive(page)?;
        }
        Ok(())
    }

    fn dispatch(self: &Rc<Self>, opened: &mut impl FnMut(Stream, u32)) {
        loop {
            let Some(event) = self.mux.borrow_mut().next_event() else {
                return;
            };
            let state = |id| self.streams.borrow().get(&id).cloned();
            match event {
                Event::Hello(version) => {
                    if version != banger_wire::PROTOCOL {
                        crate::console::say(&format!("the host speaks protocol {version}"));
                    }
                }
                Event::Opened(id, port) => {
                    let stream = self.stream(id);
                    opened(stream, port);
                }
                Event::Accepted(id) => {
                    if let Some(state) = state(id) {
                        state.accepted.set(true);
                        state.answered.notify_one();
                    }
                }
                Event::Data(id, bytes) => match state(id) {
                    Some(state) => {
                        state.inbox.borrow_mut().push_back(bytes);
                        state.readable.notify_one();
                    }
                    None => self.mux.borrow_mut().consumed(id, bytes.len()),
                },
                Event::Finished(id) => {
                    if let Some(state) = state(id) {
                        state.finished.set(true);
                        state.readable.notify_one();
                    }
                }
                Event::Reset(id) => {
                    if let Some(state) = state(id) {
                        state.end();
                    }
                }
            }
        }
    }

    /// A CREDIT frame makes no event; whoever waits to send looks again.
    fn wake_senders(&self) {
        for state in self.streams.borrow().values() {
            state.writable.notify_one();
        }
    }

    fn flush(&self, port: &Port) -> Result<bool, ChannelError> {
        let mut moved = false;
        loop {
            let mut mux = self.mux.borrow_mut();
            if mux.output().is_empty() {
                self.drained.notify_waiters();
                break;
            }
            let was_full = mux.output().len() >= OUTPUT_HIGH_WATER;
            match port.write(mux.output()).map_err(ChannelError::Port)? {
                Step::Moved(n) => {
                    moved = true;
                    mux.sent(n);
                    drop(mux);
                    if was_full {
                        self.wake_senders();
                    }
                }
                Step::Blocked => break,
                Step::Closed => return Err(ChannelError::Closed),
            }
        }
        Ok(moved)
    }

    fn stream(self: &Rc<Self>, id: StreamId) -> Stream {
        let state = Rc::<State>::default();
        self.streams.borrow_mut().insert(id, Rc::clone(&state));
        Stream {
            channel: Rc::clone(self),
            id,
            state,
        }
    }

    /// Opens a stream to a port of the host; bytes may be sent at once.
    ///
    /// # Errors
    /// [`MuxError::TooManyStreams`].
    pub(crate) fn open(self: &Rc<Self>, port: u32) -> Result<Stream, MuxError> {
        let id = self.mux.borrow_mut().open(port)?;
        self.wake.notify_one();
        Ok(self.stream(id))
    }

    /// Ends every stream and begins anew, for a host that connects again.
    pub(crate) fn restart(&self) {
        *self.mux.borrow_mut() = Mux::new(Side::Guest);
        for (_, state) in self.streams.borrow_mut().drain() {
            state.end();
        }
        self.greeted.set(false);
        self.moving.set(false);
        self.generation.set(self.generation.get() + 1);
        self.restarted.notify_waiters();
        self.wake.notify_one();
    }

    /// Counts [`Channel::restart`]s.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Waits for the generation after `generation`.
    pub(crate) async fn restarted_since(&self, generation: u64) {
        while self.generation.get() == generation {
            self.restarted.notified().await;
        }
    }

    /// Waits until everything that was sent has left for the host.
    pub(crate) async fn flushed(&self) {
        while !self.mux.borrow().output().is_empty() {
            self.drained.notified().await;
        }
    }
}

impl Stream {
    /// Tells the host that this stream is served.
    pub(crate) fn accept(&self) {
        if !self.state.gone.get() {
            self.channel.mux.borrow_mut().accept(self.id);
            self.channel.wake.notify_one();
        }
    }

    /// Lets the host have so many bytes under way; see [`Mux::widen`].
    pub(crate) fn widen(&self, window: u32) {
        if !self.state.gone.get() {
            self.channel.mux.borrow_mut().widen(self.id, window);
            self.channel.wake.notify_one();
        }
    }

    /// Waits until the host serves this stream, or it is gone.
    pub(crate) async fn accepted(&self) {
        while !self.state.accepted.get() && !self.state.gone.get() {
            self.state.answered.notified().await;
        }
    }

    /// Waits until the stream is reset.
    pub(crate) async fn ended(&self) {
        while self.receive().await.is_ok_and(|bytes| bytes.is_some()) {}
        while !self.state.gone.get() {
            self.state.answered.notified().await;
        }
    }

    /// The next bytes; `None` when the host finished.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn receive(&self) -> Result<Option<Vec<u8>>, Gone> {
        loop {
            if self.state.gone.get() {
                return Err(Gone);
            }
            let next = self.state.inbox.borrow_mut().pop_front();
            if let Some(bytes) = next {
                self.channel.mux.borrow_mut().consumed(self.id, bytes.len());
                self.channel.wake.notify_one();
                return Ok(Some(bytes));
            }
            if self.state.finished.get() {
                return Ok(None);
            }
            self.state.readable.notified().await;
        }
    }

    /// Bytes that are here already, without waiting.
    pub(crate) fn receive_more(&self) -> Option<Vec<u8>> {
        let bytes = self.state.inbox.borrow_mut().pop_front()?;
        self.channel.mux.borrow_mut().consumed(self.id, bytes.len());
        self.channel.wake.notify_one();
        Some(bytes)
    }

    /// Whether the port is being read, so that more of this stream may be here after the others' turn.
    pub(crate) fn more_may_come(&self) -> bool {
        self.channel.moving.get() && !self.state.finished.get() && !self.state.gone.get()
    }

    /// Sends all bytes, waiting for credit. One task at a time may send on a stream.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> Result<(), Gone> {
        loop {
            if self.state.gone.get() {
                return Err(Gone);
            }
            let sent = self.channel.mux.borrow_mut().send(self.id, bytes);
            if sent > 0 {
                self.channel.wake.notify_one();
            }
            bytes = &bytes[sent..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.state.writable.notified().await;
        }
    }

    /// Says that nothing more will be sent; the host may go on.
    pub(crate) fn finish(&self) {
        if !self.state.gone.get() {
            self.channel.mux.borrow_mut().finish(self.id);
            self.channel.wake.notify_one();
        }
    }

    /// Says that nothing more will be sent, and waits until the host has closed its side: a reset
    /// before that could overtake what the host has not delivered yet.
    pub(crate) async fn close(self) {
        self.finish();
        while let Ok(Some(_)) = self.receive().await {}
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.state.gone.get() {
            // Its number may mean another stream after a restart.
            return;
        }
        self.channel.streams.borrow_mut().remove(&self.id);
        self.channel.mux.borrow_mut().reset(self.id);
        self.channel.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_begins_anew_is_heard_in_the_middle_of_a_read() {
        let channel = Channel::new();
        let mut host = Mux::new(Side::Host);
        let id = host.open(1024).unwrap();
        host.send(id, &[0; 2 * PAGE]);
        // As the port delivers it: the old host's last page, which ends within a frame, and the new one's first bytes.
        let mut bytes = host.output()[..PAGE].to_vec();
        bytes.extend_from_slice(Mux::new(Side::Host).output());
        channel.receive(&bytes).unwrap();
        assert_eq!(
            (channel.generation(), channel.mux.borrow().streams()),
            (1, 0)
        );
        // It is understood from there on.
        let mut new = Mux::new(Side::Host);
        new.sent(new.output().len());
        new.open(1024).unwrap();
        channel.receive(new.output()).unwrap();
        assert_eq!(
            (channel.generation(), channel.mux.borrow().streams()),
            (1, 1)
        );
    }
}
