//! What can go wrong on the way of a tree.

use std::io;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, TreeError>;

/// Why a tree did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file operation on this side.
    #[error("cannot {action} {name}: {cause}")]
    File {
        /// In the imperative.
        action: &'static str,
        /// On what, printable.
        name: String,
        /// Why; said with it, for the peer hears words only.
        cause: io::Error,
    },
    /// The peer asked for something that is not done, or the target does not allow it.
    #[error("refused: {0}")]
    Refused(String),
    /// The peer does not speak the protocol.
    #[error("the other side broke the copy protocol: {0}")]
    Protocol(&'static str),
    /// The peer failed, in its words; untrusted.
    #[error("{0}")]
    Peer(String),
    /// The stream to the peer.
    #[error(transparent)]
    Stream(#[from] io::Error),
}

impl TreeError {
    pub(crate) fn reading(cause: io::Error) -> TreeError {
        TreeError::File {
            action: "read",
            name: "a file".to_owned(),
            cause,
        }
    }

    pub(crate) fn file(
        action: &'static str,
        name: &[u8],
    ) -> impl FnOnce(nix::errno::Errno) -> TreeError {
        let name = shown(name);
        move |errno| TreeError::File {
            action,
            name,
            cause: errno.into(),
        }
    }
}

/// A name or path as people can read it, whatever bytes it has.
pub(crate) fn shown(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => name.escape_ascii().to_string(),
    }
}
