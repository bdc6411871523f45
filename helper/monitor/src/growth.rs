//! A disk that grows while the VM runs: first the VMM's, then the guest's file system.

use banger_wire::agent::{CallError, Request, kind};
use banger_wire::frame::Decoder;
use banger_wire::monitor::ControlReply;

use crate::event_loop::Monitor;
use crate::guest::{Own, cut_message};
use crate::qmp::Command;

/// One that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    /// The client that waits for it.
    token: u64,
    bytes: u64,
}

impl Monitor {
    /// Begins; the answer comes when the guest has answered.
    pub(crate) fn grow_disk(&mut self, token: u64, node: String, bytes: u64) {
        let reason = if self.growth.is_some() {
            "another disk of it is being grown"
        } else if self.command(&Command::Resize { node, bytes }) {
            self.growth = Some(Growth { token, bytes });
            return;
        } else {
            "the VMM cannot be asked"
        };
        self.refuse_growth(token, reason);
    }

    /// The VMM has answered.
    pub(crate) fn disk_resized(&mut self, result: Result<(), String>) {
        let Some(Growth { token, bytes }) = self.growth else {
            return;
        };
        match result {
            Ok(()) if self.ready.is_some() => {
                if !self.call_guest(Own::Grow, Request::GrowDisk { bytes }) {
                    self.end_growth(token, Err("the guest cannot be asked"));
                }
            }
            Ok(()) => self.end_growth(token, Err("the guest is not ready")),
            Err(message) => self.end_growth(token, Err(&message)),
        }
    }

    /// The guest has answered, or hung up.
    pub(crate) fn disk_grown(&mut self, answer: &[u8]) {
        let Some(Growth { token, .. }) = self.growth else {
            return;
        };
        let mut decoder = Decoder::default();
        decoder.push(answer);
        let result = match decoder.next_frame() {
            Ok(Some(frame)) if frame.kind == kind::REPLY => Ok(()),
            Ok(Some(frame)) if frame.kind == kind::ERROR => {
                let error = serde_json::from_slice::<CallError>(&frame.payload);
                Err(error.map_or_else(|_| "it gives no reason".to_owned(), |error| error.message))
            }
            _ => Err("it gave no answer".to_owned()),
        };
        let result = result.map_err(|message| format!("the guest: {}", cut_message(message)));
        self.end_growth(token, result.as_ref().copied().map_err(String::as_str));
    }

    /// The guest cannot be talked to any more.
    pub(crate) fn lose_growth(&mut self) {
        if let Some(Growth { token, .. }) = self.growth {
            self.end_growth(token, Err("the guest cannot be reached any more"));
        }
    }

    fn end_growth(&mut self, token: u64, result: Result<(), &str>) {
        self.growth = None;
        match result {
            Ok(()) => {
                self.control.reply(token, &ControlReply::Done);
                self.control_ready.push(token);
            }
            Err(reason) => self.refuse_growth(token, reason),
        }
    }

    fn refuse_growth(&mut self, token: u64, reason: &str) {
        let message = reason.to_owned();
        self.control.reply(token, &ControlReply::Error { message });
        self.control_ready.push(token);
    }
}
