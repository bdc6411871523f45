//! What the guest tells the monitor itself: boot events on a stream of the guest's, and the answer
//! to our shutdown call on a stream of ours. Untrusted.

use banger_wire::agent::{Call, Event, Request, kind};
use banger_wire::frame;
use banger_wire::mux::{Mux, StreamId};
use banger_wire::{PROTOCOL, port};

use crate::buffer::Lines;

const MAX_LINE: usize = 64 * 1024;
const MAX_MESSAGE: usize = 4096;

/// The longest answer to a call of ours.
const MAX_ANSWER: usize = 64 * 1024;
/// Calls of ours that a guest may leave unanswered.
const MAX_CALLS: usize = 8;

/// What a call of ours is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Clock,
    Statistics,
    Grow,
}

/// The monitor's own streams.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    events: Option<(StreamId, Lines)>,
    shutdown: Option<StreamId>,
    calls: Vec<(StreamId, Own, Vec<u8>)>,
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
        self.is_events(stream)
            || self.shutdown == Some(stream)
            || self.calls.iter().any(|(id, ..)| *id == stream)
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

    /// A further call can wait for its answer.
    pub(crate) fn can_call(&self, own: Own) -> bool {
        self.calls.len() < MAX_CALLS && !self.calls.iter().any(|(_, known, _)| *known == own)
    }

    /// Sends a call whose answer is looked at when it is whole, if at all; false when it cannot be sent.
    pub(crate) fn call(
        &mut self,
        mux: &mut Mux,
        stream: StreamId,
        own: Own,
        request: Request,
    ) -> bool {
        let bytes = encode(request).unwrap_or_default();
        if bytes.is_empty() || mux.send(stream, &bytes) < bytes.len() {
            mux.reset(stream);
            return false;
        }
        mux.finish(stream);
        self.calls.push((stream, own, Vec::new()));
        true
    }

    /// Bytes of an answer; more than answers have cost the guest the stream.
    pub(crate) fn call_answer(&mut self, mux: &mut Mux, stream: StreamId, bytes: &[u8]) {
        let Some(at) = self.calls.iter().position(|(id, ..)| *id == stream) else {
            return;
        };
        mux.consumed(stream, bytes.len());
        let answer = &mut self.calls[at].2;
        if answer.len() + bytes.len() > MAX_ANSWER {
            mux.reset(stream);
            self.calls.remove(at);
        } else {
            answer.extend_from_slice(bytes);
        }
    }

    /// The whole answer of a call whose stream ended.
    pub(crate) fn call_ended(&mut self, stream: StreamId) -> Option<(Own, Vec<u8>)> {
        let at = self.calls.iter().position(|(id, ..)| *id == stream)?;
        let (_, own, answer) = self.calls.remove(at);
        Some((own, answer))
    }

    /// Sends the shutdown call; false when it cannot be sent.
    pub(crate) fn call_shutdown(&mut self, mux: &mut Mux, stream: StreamId, grace_ms: u64) -> bool {
        let Some(bytes) = encode(Request::Shutdown { grace_ms }) else {
            return false;
        };
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

fn encode(request: Request) -> Option<Vec<u8>> {
    let call = Call {
        protocol: PROTOCOL,
        request,
    };
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, kind::CALL, &serde_json::to_vec(&call).ok()?);
    Some(bytes)
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
