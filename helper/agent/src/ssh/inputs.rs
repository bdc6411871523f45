//! What clients say on each channel, on its way from russh's task to the channel's own.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_wire::agent::TerminalSize;
use nix::sys::signal::Signal;
use russh::ChannelId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::flow::Held;

/// One message on a channel.
#[derive(Debug)]
pub(super) enum Input {
    /// For the other end.
    Data(Held),
    /// No more data.
    Eof,
    /// The client closed the channel.
    Closed,
    /// A variable that the client may set.
    Variable(String, String),
    /// A terminal was made.
    Terminal(Terminal),
    /// Its size changed.
    Resize(TerminalSize),
    /// For the process.
    Signal(Signal),
    /// Begin.
    Start(Start),
}

/// A terminal that waits for its process.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: File,
    /// Path of the slave.
    pub(super) name: String,
    /// `TERM`.
    pub(super) kind: String,
}

/// What a session runs.
#[derive(Debug)]
pub(super) enum Start {
    /// The user's login shell.
    Shell,
    /// A line for that shell.
    Command(Vec<u8>),
    /// The file transfer service.
    Sftp,
}

/// One channel's queue.
#[derive(Debug)]
struct Queue {
    sender: UnboundedSender<Input>,
    /// Until its task takes it.
    receiver: Option<UnboundedReceiver<Input>>,
    closed: bool,
}

impl Queue {
    fn new() -> Queue {
        let (sender, receiver) = unbounded_channel();
        Queue {
            sender,
            receiver: Some(receiver),
            closed: false,
        }
    }
}

/// The queues of all channels. Unbounded, because [`Flow`](super::flow::Flow) counts the data.
#[derive(Debug, Clone, Default)]
pub(super) struct Inputs(Arc<Mutex<HashMap<ChannelId, Queue>>>);

impl Inputs {
    /// Makes a channel's queue, if nobody has yet.
    pub(super) fn open(&self, channel: ChannelId) {
        self.lock().entry(channel).or_insert_with(Queue::new);
    }

    /// Adds to a channel's queue; one that is closed drops it.
    pub(super) fn send(&self, channel: ChannelId, input: Input) {
        if let Some(queue) = self.lock().get(&channel) {
            // Whoever has dropped the receiver wants nothing more.
            let _ = queue.sender.send(input);
        }
    }

    /// The channel's end of the queue; its first taker gets it.
    pub(super) fn receiver(&self, channel: ChannelId) -> Option<UnboundedReceiver<Input>> {
        let mut queues = self.lock();
        let queue = queues.entry(channel).or_insert_with(Queue::new);
        let (receiver, closed) = (queue.receiver.take(), queue.closed);
        if closed {
            queues.remove(&channel);
        }
        receiver
    }

    /// Forgets a channel, for the client's closing and for ours: russh tells only of the first. What is
    /// queued can still be received.
    pub(super) fn close(&self, channel: ChannelId) {
        let mut queues = self.lock();
        if let Some(queue) = queues.get_mut(&channel) {
            let _ = queue.sender.send(Input::Closed);
            queue.closed = true;
            if queue.receiver.is_none() {
                queues.remove(&channel);
            }
        }
    }

    /// Whether the channel is open.
    pub(super) fn has(&self, channel: ChannelId) -> bool {
        self.lock().contains_key(&channel)
    }

    /// How many channels there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelId, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
