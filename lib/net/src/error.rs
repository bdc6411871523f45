//! Errors of the privileged operations.

use std::io;
use std::path::PathBuf;

use banger_proto::{Code, NameError, Refusal};
use lib_model::{Diagnose, Exit};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The daemon refused, or failed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A name that the daemon does not take.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nobody listens.
    #[error("banger-netd does not listen at {}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The child that would serve could not be started.
    #[error("cannot run banger-netd ({program})")]
    Child {
        /// The command line.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or what came is not understood.
    #[error("the connection to banger-netd broke: {0}")]
    Broken(String),
}

impl NetError {
    /// Why the daemon refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            NetError::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}

impl Diagnose for NetError {
    fn exit(&self) -> Exit {
        match self {
            NetError::Name(_) => Exit::Usage,
            NetError::Refused(refusal) => match refusal.code {
                Code::NotFound => Exit::NotFound,
                Code::Busy => Exit::Busy,
                Code::Failed => Exit::Failed,
                Code::Denied | Code::Invalid | Code::Exhausted | Code::Overlap | Code::NotOurs => {
                    Exit::Refused
                }
            },
            NetError::Unreachable { .. } | NetError::Child { .. } | NetError::Broken(_) => {
                Exit::Failed
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            NetError::Refused(refusal) => refusal.hint.clone(),
            NetError::Name(_) => None,
            NetError::Unreachable { .. } => Some(
                "sudo systemctl start banger-netd.socket   (or use --network user, which needs no daemon)"
                    .into(),
            ),
            NetError::Child { .. } => {
                Some("set BANGER_LIBEXEC_DIR, or build it: cargo xtask build".into())
            }
            NetError::Broken(_) => Some("journalctl -u banger-netd".into()),
        }
    }
}
