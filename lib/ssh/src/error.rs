//! What can go wrong with keys and configuration.

use std::io;
use std::path::PathBuf;

use lib_model::{Diagnose, Exit};
use lib_store::StoreError;

/// Why a key or a configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key of ours that is none.
    #[error("the key {} is damaged: {reason}", path.display())]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// A setting that names no key.
    #[error("vm.authorized-keys: `{entry}` {reason}")]
    Authorized {
        /// The entry, or file and line.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No OpenSSH.
    #[error("no `ssh` is installed (looked in PATH)")]
    NoClient,
    /// A path that ssh_config(5) cannot express.
    #[error("{} cannot be written in an ssh configuration: it contains {what}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is in it.
        what: &'static str,
    },
    /// `HOME` is not set.
    #[error("HOME is not set, so there is no ssh configuration to change")]
    NoHome,
    /// A file operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user's configuration is made by a tool, or is somebody else's.
    #[error("cannot change {}", path.display())]
    ReadOnly {
        /// The file, links resolved.
        path: PathBuf,
        /// The line that is to be in it.
        line: String,
        /// Why.
        source: io::Error,
    },
}

impl Diagnose for SshError {
    fn exit(&self) -> Exit {
        match self {
            SshError::Store(error) => error.exit(),
            SshError::Authorized { .. } => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SshError::Store(error) => error.hint(),
            SshError::Damaged { path, .. } => Some(format!(
                "rm {}   (another one is made at the next start)",
                path.display()
            )),
            SshError::Authorized { .. } => Some("banger config show --origin".into()),
            SshError::NoClient => Some(
                "sudo apt-get install openssh-client   (NixOS: programs.ssh is part of the system)"
                    .into(),
            ),
            SshError::Path { .. } => Some("choose another place with --store".into()),
            SshError::NoHome => Some("banger-vm ssh-config   (prints what belongs there)".into()),
            SshError::ReadOnly { line, .. } => {
                Some(format!("add this line yourself, as the first: {line}"))
            }
            SshError::Io { .. } => None,
        }
    }
}

/// For `map_err`: an I/O error with what was tried and on what.
pub(crate) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> SshError {
    let path = path.into();
    move |source| SshError::Io {
        action,
        path,
        source,
    }
}
