//! What can go wrong between the host and a guest, with the exit status for each.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use banger_wire::agent::{CallError, CallErrorKind};

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The VM's agent socket cannot be connected to: mostly the VM does not run.
    #[error("cannot connect to the guest by {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The monitor or the guest refused the stream.
    #[error("the guest refused port {port}: {answer}")]
    Refused {
        /// The mux port.
        port: u32,
        /// What came instead of `OK`; untrusted, at most one line, printable.
        answer: String,
    },
    /// The agent could not serve the call.
    #[error("{}", printable(&.0.message))]
    Call(CallError),
    /// The guest did not answer in time.
    #[error("the guest did not answer within {} s", .0.as_secs_f32())]
    NoAnswer(Duration),
    /// The guest sent what the protocol does not allow.
    #[error("the guest broke the protocol: {0}")]
    Protocol(String),
    /// The connection ended before the call did.
    #[error("the connection to the guest was lost")]
    ConnectionLost,
    /// The caller asked to give up while the command ran; the guest was told to end it.
    #[error("interrupted; the guest was told to end the command")]
    Interrupted,
    /// Files did not arrive, or could not be sent.
    #[error(transparent)]
    Tree(#[from] banger_tree::TreeError),
    /// The host's side failed.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// The exit status for a command that passes the guest command's status through: 127 and 126
    /// as in a shell, 255 for a lost connection, 130 after an interruption, else 125.
    pub fn status(&self) -> u8 {
        match self {
            Error::Call(error) => match error.kind {
                CallErrorKind::NotFound => 127,
                CallErrorKind::NotExecutable => 126,
                CallErrorKind::BadRequest | CallErrorKind::Unsupported | CallErrorKind::Failed => {
                    125
                }
            },
            Error::ConnectionLost => 255,
            Error::Interrupted => 130,
            Error::Connect { .. }
            | Error::Refused { .. }
            | Error::NoAnswer(_)
            | Error::Protocol(_)
            | Error::Tree(_)
            | Error::Host { .. } => 125,
        }
    }

    pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Host { what, source }
    }
}

/// A guest's words without control characters, which could drive the user's terminal.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 1000;
    let safe = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.trim_end().chars().take(LONGEST).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_words_cannot_drive_the_terminal() {
        assert_eq!(printable("no\x1b[2J such\n"), "no\u{fffd}[2J such");
        assert_eq!(printable(&"x".repeat(5000)).len(), 1000);
    }

    #[test]
    fn statuses_are_those_of_a_shell() {
        let call = |kind| {
            Error::Call(CallError {
                kind,
                message: String::new(),
            })
            .status()
        };
        assert_eq!(call(CallErrorKind::NotFound), 127);
        assert_eq!(call(CallErrorKind::NotExecutable), 126);
        assert_eq!(call(CallErrorKind::Failed), 125);
        assert_eq!(Error::ConnectionLost.status(), 255);
    }
}
