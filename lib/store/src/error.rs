//! Errors of the store.

use std::io;
use std::path::{Path, PathBuf};

use lib_model::{Diagnose, Exit};

/// What can go wrong with stored state.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative: `create`, `rename`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("the database {} failed", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Made by a newer banger that this one cannot share it with.
    #[error("the store {} has format {found}, this banger knows up to {known}", path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A directory that others can write to, or that is not ours.
    #[error("{} is not safe to use: {reason}", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Sockets in the directory would have names that the kernel refuses (unix(7)).
    #[error("{} is too long for sockets: {length} bytes, the limit is {limit}", path.display())]
    PathTooLong {
        /// The directory.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Nothing of that name or id.
    #[error("there is no {kind} `{selector}`")]
    NotFound {
        /// `image`, `kernel` or `VM`.
        kind: &'static str,
        /// As given.
        selector: String,
        /// A known name that is close.
        nearest: Option<String>,
    },
    /// An id prefix that matches several.
    #[error("`{selector}` matches several {kind}s: {}", matches.join(", "))]
    Ambiguous {
        /// `image`, `kernel` or `VM`.
        kind: &'static str,
        /// As given.
        selector: String,
        /// What it matches.
        matches: Vec<String>,
    },
    /// The name belongs to something else.
    #[error("the {kind} name `{name}` is taken")]
    NameTaken {
        /// `image`, `kernel` or `VM`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// VMs refer to it.
    #[error("the {kind} `{name}` is in use by {}", users.join(", "))]
    InUse {
        /// `image` or `kernel`.
        kind: &'static str,
        /// The name or id.
        name: String,
        /// Names of the VMs.
        users: Vec<String>,
    },
    /// Images bring it.
    #[error("the kernel `{name}` belongs to {}", images.join(", "))]
    KernelOfImages {
        /// Of the kernel.
        name: String,
        /// Names or ids of the images.
        images: Vec<String>,
    },
    /// A row that does not parse; only a defect or an edited database makes one.
    #[error("the database row of {what} is damaged: {reason}")]
    DamagedRow {
        /// Table and id.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The user wished to end while a lock was waited for.
    #[error("interrupted")]
    Interrupted,
    /// No place for the state.
    #[error("neither HOME nor XDG_DATA_HOME is set")]
    NoHome,
    /// An environment variable holds no usable path.
    #[error("{variable} is `{value}`, which is no absolute path")]
    RelativePath {
        /// Name of the variable or flag.
        variable: &'static str,
        /// Its value.
        value: String,
    },
}

impl StoreError {
    /// A row refers to something that is not there, or something is referred to that was to go.
    pub(crate) fn is_foreign_key(&self) -> bool {
        let StoreError::Database { source, .. } = self else {
            return false;
        };
        source.sqlite_error().is_some_and(|error| {
            error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY
                || error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_TRIGGER
        })
    }
}

impl Diagnose for StoreError {
    fn exit(&self) -> Exit {
        match self {
            StoreError::NotFound { .. } => Exit::NotFound,
            StoreError::NameTaken { .. }
            | StoreError::InUse { .. }
            | StoreError::KernelOfImages { .. } => Exit::Busy,
            StoreError::Ambiguous { .. } | StoreError::NoHome | StoreError::RelativePath { .. } => {
                Exit::Usage
            }
            StoreError::Interrupted => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StoreError::NotFound {
                nearest: Some(name),
                ..
            } => Some(format!("did you mean `{name}`?")),
            StoreError::NotFound {
                kind: "image",
                selector,
                ..
            } => Some(format!(
                "banger-image pull {selector}   (banger-image list shows what is here)"
            )),
            StoreError::NotFound { kind: "kernel", .. } => {
                Some("banger-image kernel list   (or: banger-image kernel import FILE)".into())
            }
            StoreError::NotFound {
                kind: "operation", ..
            } => Some("banger-vm op list".into()),
            StoreError::NotFound {
                kind: "workspace", ..
            } => Some("banger-ws list   (or: banger-ws prepare VM DIR)".into()),
            StoreError::NotFound { .. } => Some("banger-vm list".into()),
            StoreError::Ambiguous {
                kind: "workspace",
                matches,
                ..
            } => Some(format!(
                "name one of them, such as {}",
                matches.first().map_or("VM:PATH", String::as_str)
            )),
            StoreError::Ambiguous { .. } => Some("type more characters of the id".into()),
            StoreError::NameTaken { kind: "VM", name } => Some(format!(
                "choose another --name, or: banger-vm delete {name}"
            )),
            StoreError::NameTaken { .. } => Some("choose another --name".into()),
            StoreError::InUse { users, .. } => {
                Some(format!("banger-vm delete {}", users.join(" ")))
            }
            StoreError::KernelOfImages { images, .. } => {
                Some(format!("banger-image delete {}", images.join(" ")))
            }
            StoreError::Newer { .. } => {
                Some("run the newer banger, or choose another --store".into())
            }
            StoreError::NoHome => Some("set HOME, or choose a place with --store DIR".into()),
            StoreError::UnsafeDirectory { .. } => {
                Some("choose a directory that is yours alone (mode 0700) by --store, BANGER_RUNTIME_DIR or XDG_RUNTIME_DIR".into())
            }
            StoreError::Database { source, .. }
                if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) =>
            {
                Some("free some disk space, then run it again".into())
            }
            StoreError::PathTooLong { .. } => Some("choose a shorter BANGER_RUNTIME_DIR or XDG_RUNTIME_DIR".into()),
            StoreError::Database { path, source } => {
                use rusqlite::ErrorCode;
                let path = path.display();
                Some(match source.sqlite_error_code() {
                    // Of what has no room SQLite says no more.
                    Some(ErrorCode::SystemIoFailure) => {
                        format!("is the disk of {path} full? Free some space, then run it again")
                    }
                    Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => format!(
                        "can you write to {path} and its directory? If not, choose another --store"
                    ),
                    _ => format!("is {path} a readable, writable SQLite database?"),
                })
            }
            StoreError::Io { action, source, .. } => match source.kind() {
                io::ErrorKind::NotFound if *action == "create" => Some(
                    "make the directory above it, or choose another by --store, BANGER_RUNTIME_DIR or XDG_RUNTIME_DIR"
                        .into(),
                ),
                io::ErrorKind::StorageFull => Some("free some disk space, then run it again".into()),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some("choose a place that you can write to with --store DIR".into())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// For `map_err`: an I/O error with what was tried and on what.
pub fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}
