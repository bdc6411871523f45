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

type Queue = (UnboundedSender<Input>, Option<UnboundedReceiver<Input>>);

/// The queues of all channels. Unbounded, because [`Flow`](super::flow::Flow) counts the data.
#[derive(Debug, Clone, Default)]
pub(super) struct Inputs(Arc<Mutex<HashMap<ChannelId, Queue>>>);

impl Inputs {
    /// Adds to a channel's queue; whoever is first makes it.
    pub(super) fn send(&self, channel: ChannelId, input: Input) {
        // Whoever has dropped the receiver wants nothing more.
        let _ = self.queue(channel).0.send(input);
    }

    /// The channel's end of the queue; its first taker gets it.
    pub(super) fn receiver(&self, channel: ChannelId) -> Option<UnboundedReceiver<Input>> {
        let mut queues = self.lock();
        queues.entry(channel).or_insert_with(new).1.take()
    }

    /// Forgets a channel; what is queued can still be received.
    pub(super) fn close(&self, channel: ChannelId) {
        if let Some((sender, _)) = self.lock().remove(&channel) {
            let _ = sender.send(Input::Closed);
        }
    }

    /// How many channels there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn queue(&self, channel: ChannelId) -> Queue {
        let mut queues = self.lock();
        (queues.entry(channel).or_insert_with(new).0.clone(), None)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelId, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new() -> Queue {
    let (sender, receiver) = unbounded_channel();
    (sender, Some(receiver))
}
