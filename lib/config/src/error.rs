//! What can be wrong with configuration.

use std::io;
use std::path::PathBuf;

use lib_model::{Diagnose, Exit};

use crate::Origin;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that is there, or was named, cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no TOML.
    #[error("{origin}: {reason}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong.
        reason: String,
    },
    /// A key that means nothing.
    #[error("{origin}: there is no setting `{key}`")]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// As written, with its section.
        key: String,
        /// A known key that is close.
        nearest: Option<&'static str>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: `{key}`: {reason}")]
    Value {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A variable that is not UTF-8.
    #[error("{variable} is not UTF-8")]
    NotUtf8 {
        /// Its name.
        variable: String,
    },
}

impl Diagnose for ConfigError {
    fn exit(&self) -> Exit {
        match self {
            ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Exit::NotFound
            }
            ConfigError::Read { .. } => Exit::Failed,
            _ => Exit::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ConfigError::Read { .. } => {
                Some("BANGER_CONFIG names the files; empty, it means none".into())
            }
            ConfigError::UnknownKey {
                nearest: Some(key), ..
            } => Some(format!("did you mean `{key}`?")),
            ConfigError::UnknownKey { .. } => {
                Some("banger config show   (lists every setting)".into())
            }
            _ => None,
        }
    }
}
