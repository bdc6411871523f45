//! What the guest tells the monitor itself: boot events on a stream of the guest's, and the answer
//! to our shutdown call on a stream of ours. Untrusted.

use banger_wire::agent::{Call, Event, Request, kind};
use banger_wire::frame;
use banger_wire::mux::{Mux, StreamId};
use banger_wire::{PROTOCOL, port};

use crate::buffer::Lines;

const MAX_LINE: usize = 64 * 1024;
const MAX_MESSAGE: usize = 4096;

/// The monitor's own streams.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    events: Option<(StreamId, Lines)>,
    shutdown: Option<StreamId>,
}

impl Guest {
    /// The guest opened a stream: one for events at a time, nothing else.
    pub(crate) fn opened(&mut self, mux: &mut Mux, stream: StreamId, port: u32) {
        if port == port::EVENTS && self.events.is_none() {
            self.events = Some((stream, Lines::new(MAX_LINE)));
            mux.accept(stream);
        } else {
            mux.reset(stream);
        }
    }

    /// The stream is the monitor's own.
    pub(crate) fn owns(&self, stream: StreamId) -> bool {
        self.is_events(stream) || self.shutdown == Some(stream)
    }

    fn is_events(&self, stream: StreamId) -> bool {
        self.events.as_ref().is_some_and(|(id, _)| *id == stream)
    }

    /// Bytes on the events stream. A line that never ends costs the guest the stream.
    pub(crate) fn events(&mut self, mux: &mut Mux, stream: StreamId, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some((_, lines)) = self.events.as_mut().filter(|(id, _)| *id == stream) {
            let pushed = lines.push(bytes, |line| events.extend(serde_json::from_slice(line)));
            mux.consumed(stream, bytes.len());
            if pushed.is_err() {
                mux.reset(stream);
                self.events = None;
            }
        }
        events
    }

    /// Sends the shutdown call; false when it cannot be sent.
    pub(crate) fn call_shutdown(&mut self, mux: &mut Mux, stream: StreamId, grace_ms: u64) -> bool {
        let call = Call {
            protocol: PROTOCOL,
            request: Request::Shutdown { grace_ms },
        };
        let mut bytes = Vec::new();
        match serde_json::to_vec(&call) {
            Ok(text) => frame::encode(&mut bytes, kind::CALL, &text),
            Err(_) => return false,
        }
        if mux.send(stream, &bytes) < bytes.len() {
            mux.reset(stream);
            return false;
        }
        self.shutdown = Some(stream);
        true
    }

    /// Bytes on the shutdown stream; false when the agent refused the call.
    pub(crate) fn shutdown_answer(
        &mut self,
        mux: &mut Mux,
        stream: StreamId,
        bytes: &[u8],
    ) -> bool {
        if self.shutdown != Some(stream) {
            return true;
        }
        mux.finish(stream);
        self.shutdown = None;
        bytes.first() == Some(&kind::REPLY)
    }

    /// A stream ended; true when it is the shutdown call, unanswered.
    pub(crate) fn ended(&mut self, mux: &mut Mux, stream: StreamId) -> bool {
        mux.finish(stream);
        if self.is_events(stream) {
            self.events = None;
        }
        let unanswered = self.shutdown == Some(stream);
        if unanswered {
            self.shutdown = None;
        }
        unanswered
    }
}

/// A message of the guest's, cut to what belongs into a record.
pub(crate) fn cut_message(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(cut_message("short".into()), "short");
        assert_eq!(cut_message("ä".repeat(3000)).len(), 4096);
        assert_eq!(cut_message("€".repeat(3000)).len(), 4095);
    }
}
