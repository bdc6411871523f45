//! The few words of QMP that a supervisor needs (docs/interop/qmp-spec.rst in QEMU's source).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::buffer::Lines;

const MAX_LINE: usize = 64 * 1024;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Capabilities,
    PowerDown,
    Quit,
    /// Stops the processors.
    Stop,
    Continue,
    /// Gives a disk this many bytes; answered by [`Message::Resized`].
    Resize {
        node: String,
        bytes: u64,
    },
}

/// The `id` by which its answer is known.
const RESIZE: &str = "resize";

impl Command {
    fn line(&self) -> String {
        let command = match self {
            Command::Capabilities => json!({"execute": "qmp_capabilities"}),
            Command::PowerDown => json!({"execute": "system_powerdown"}),
            Command::Quit => json!({"execute": "quit"}),
            Command::Stop => json!({"execute": "stop"}),
            Command::Continue => json!({"execute": "cont"}),
            Command::Resize { node, bytes } => json!({
                "execute": "block_resize", "arguments": {"node-name": node, "size": bytes}, "id": RESIZE,
            }),
        };
        format!("{command}\n")
    }
}

/// Why QEMU shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// The guest powered off.
    GuestPowerOff,
    /// The guest panicked, and told the VMM.
    GuestPanic,
    /// The guest reset itself; QEMU runs with `-no-reboot`. A kernel with `panic=-1` does so, too.
    GuestReset,
    /// Somebody on the host: `quit`, a signal.
    Host,
}

/// What QEMU said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Greeting,
    Return,
    Error(String),
    Shutdown(Shutdown),
    GuestPanicked,
    /// The answer to [`Command::Resize`]; why not, if so.
    Resized(Result<(), String>),
    /// The processors go on after a pause.
    Resumed,
}

/// The monitor's end of a QMP channel.
#[derive(Debug)]
pub(crate) struct Qmp {
    socket: UnixStream,
    lines: Lines,
    negotiated: bool,
}

/// What became of reading the channel.
#[derive(Debug)]
pub(crate) enum QmpRead {
    Messages(Vec<Message>),
    /// Nothing to read for now.
    Empty,
    /// The channel cannot be used any more; with the reason unless it was just closed.
    End(Option<String>),
}

impl Qmp {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Qmp {
            socket,
            lines: Lines::new(MAX_LINE),
            negotiated: false,
        }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Commands can be sent.
    pub(crate) fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Reads some of what is there, and negotiates.
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> QmpRead {
        let count = match (&self.socket).read(scratch) {
            Ok(0) => return QmpRead::End(None),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return QmpRead::Empty,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return QmpRead::End(Some(error.to_string())),
        };
        let mut messages = Vec::new();
        let read = self
            .lines
            .push(&scratch[..count], |line| messages.extend(parse(line)));
        if let Err(error) = read {
            return QmpRead::End(Some(error.to_string()));
        }
        for message in &messages {
            let answered = match message {
                Message::Greeting => self.send(&Command::Capabilities),
                Message::Return => {
                    self.negotiated = true;
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(error) = answered {
                return QmpRead::End(Some(error.to_string()));
            }
        }
        QmpRead::Messages(messages)
    }

    /// Sends a command. A handful of short lines in a VM's life never fill a socket buffer, so a
    /// write that would block is an error like any other.
    pub(crate) fn send(&mut self, command: &Command) -> io::Result<()> {
        self.socket.write_all(command.line().as_bytes())
    }
}

fn parse(line: &[u8]) -> Option<Message> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "QMP")]
        greeting: Option<IgnoredAny>,
        #[serde(rename = "return")]
        returned: Option<IgnoredAny>,
        error: Option<Failure>,
        id: Option<String>,
        event: Option<String>,
        data: Option<Data>,
    }
    #[derive(Deserialize)]
    struct Failure {
        desc: String,
    }
    #[derive(Default, Deserialize)]
    struct Data {
        #[serde(default)]
        guest: bool,
        #[serde(default)]
        reason: String,
    }

    let line: Line = serde_json::from_slice(line).ok()?;
    if line.greeting.is_some() {
        return Some(Message::Greeting);
    }
    if line.id.as_deref() == Some(RESIZE) {
        let failure = line.error.map(|failure| failure.desc);
        return Some(Message::Resized(failure.map_or(Ok(()), Err)));
    }
    if line.returned.is_some() {
        return Some(Message::Return);
    }
    if let Some(failure) = line.error {
        return Some(Message::Error(failure.desc));
    }
    match line.event?.as_str() {
        "GUEST_PANICKED" => Some(Message::GuestPanicked),
        "RESUME" => Some(Message::Resumed),
        "SHUTDOWN" => {
            let data = line.data.unwrap_or_default();
            Some(Message::Shutdown(match data.reason.as_str() {
                "guest-shutdown" => Shutdown::GuestPowerOff,
                "guest-panic" => Shutdown::GuestPanic,
                "guest-reset" => Shutdown::GuestReset,
                _ if data.guest => Shutdown::GuestPowerOff,
                _ => Shutdown::Host,
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_qemu_are_understood() {
        let table = [
            (
                r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#,
                Some(Message::Greeting),
            ),
            (r#"{"return": {}}"#, Some(Message::Return)),
            (
                r#"{"return": {}, "id": "resize"}"#,
                Some(Message::Resized(Ok(()))),
            ),
            (
                r#"{"id": "resize", "error": {"class": "GenericError", "desc": "too small"}}"#,
                Some(Message::Resized(Err("too small".into()))),
            ),
            (
                r#"{"error": {"class": "CommandNotFound", "desc": "no such command"}}"#,
                Some(Message::Error("no such command".into())),
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#,
                Some(Message::Shutdown(Shutdown::GuestPowerOff)),
            ),
            (
                r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
                Some(Message::Shutdown(Shutdown::GuestReset)),
            ),
            (
                r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}}"#,
                Some(Message::Shutdown(Shutdown::GuestPanic)),
            ),
            (
                r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"#,
                Some(Message::Shutdown(Shutdown::Host)),
            ),
            (
                r#"{"event": "GUEST_PANICKED", "data": {"action": "pause"}}"#,
                Some(Message::GuestPanicked),
            ),
            (r#"{"event": "RESUME"}"#, Some(Message::Resumed)),
            (r#"{"event": "STOP", "data": {"reason": 7}}"#, None),
            ("garbage", None),
            ("", None),
            ("[]", None),
        ];
        for (line, message) in table {
            assert_eq!(parse(line.as_bytes()), message, "{line}");
        }
    }
}
