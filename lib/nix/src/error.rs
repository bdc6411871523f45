//! What can be wrong with Nix, and with what it built.

use std::io;
use std::path::PathBuf;

use lib_model::{Diagnose, Exit};

use crate::StorePath;

/// Why an image could not be made of what Nix has.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `nix` on this machine.
    #[error("nix is not installed, or not on PATH")]
    Missing,
    /// It cannot be passed to Nix.
    #[error("the installable `{text}` {reason}")]
    Installable {
        /// Its beginning.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Nix ended with an error.
    #[error("{command} failed ({status}){}", joined(lines))]
    Failed {
        /// Such as `nix build .#x`.
        command: String,
        /// How it ended.
        status: String,
        /// The last it said.
        lines: Vec<String>,
    },
    /// Nix said something unexpected.
    #[error("cannot read what {command} printed: {reason}")]
    Answer {
        /// Such as `nix build`.
        command: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Not below `/nix/store`.
    #[error("{} is no path of the Nix store", .0.display())]
    NotInStore(PathBuf),
    /// What was built is nothing that an image can be made of.
    #[error("{path} is nothing that an image can be made of: {found}")]
    Unknown {
        /// The output.
        path: StorePath,
        /// What it is.
        found: String,
    },
    /// A program that would write an image.
    #[error("{0} is a program, which would have to be run on this machine to get an image")]
    Program(StorePath),
    /// A path went away while it was read.
    #[error("{0} vanished while it was imported")]
    Vanished(StorePath),
    /// A path is not what the store's database says.
    #[error(
        "{path} is damaged: its content has the hash {actual}, the store's database says {expected}"
    )]
    Changed {
        /// Which.
        path: StorePath,
        /// Of its NAR, hexadecimal SHA-256.
        expected: String,
        /// As it was read.
        actual: String,
    },
    /// An image description of nix2container that has what is not understood.
    #[error("{path} describes an image that cannot be made: {reason}")]
    Layers {
        /// The description.
        path: StorePath,
        /// What is not understood.
        reason: String,
    },
    /// `boot.json` is not as RFC 125 has it.
    #[error("{} is malformed: {reason}", path.display())]
    Bootspec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system could not be written.
    #[error("cannot write the closure into a file system")]
    FileSystem(#[from] lib_fs::Error),
    /// The database of the guest's store could not be made.
    #[error("cannot make the database of the guest's store")]
    Database(#[from] rusqlite::Error),
}

impl Error {
    /// For `map_err`: what was tried, and on what.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }
}

impl Diagnose for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Installable { .. } | Error::NotInStore(_) | Error::Program(_) => Exit::Usage,
            Error::Missing => Exit::NotFound,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Missing => {
                "sudo apt-get install nix-bin   (or see nixos.org/download; PATH must name its directory)".into()
            }
            Error::Installable { .. } => {
                "banger-image import --nix nixpkgs#hello   (or a flake's path, or a path below /nix/store)"
                    .into()
            }
            Error::Program(path) => {
                format!("banger-image import --nix {path} --allow-exec   (if you trust it)")
            }
            Error::Unknown { .. } => {
                "import --nix takes NixOS systems, packages, docker archives and ext4 disks".into()
            }
            Error::Vanished(path) | Error::Changed { path, .. } => {
                format!("nix-store --verify-path {path}   (then build it again, and import it again)")
            }
            _ => return None,
        };
        Some(hint)
    }
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
