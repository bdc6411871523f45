//! What can go wrong with a workspace.

use std::io;
use std::path::{Path, PathBuf};

use banger_tree::TreeError;
use lib_model::{ByteSize, Diagnose, Exit};
use lib_store::StoreError;
use lib_vm::VmError;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, WsError>;

/// Why a verb did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum WsError {
    /// The host has no git.
    #[error("git is not installed on this host")]
    NoGit,
    /// The host's git is too old.
    #[error("git {found} is too old, workspaces need {needed}")]
    OldGit {
        /// What is there.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// git failed; its words.
    #[error("git {command} failed: {words}")]
    Git {
        /// The subcommand.
        command: String,
        /// The last lines of its standard error, printable.
        words: String,
    },
    /// The source is no repository with a working tree.
    #[error("{}: {reason}", path.display())]
    NoRepository {
        /// What was given.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The source is somebody else's, whose configuration git does not take.
    #[error("{} belongs to another user, and git trusts only your own repositories", path.display())]
    NotYours {
        /// What was given.
        path: PathBuf,
    },
    /// A request that cannot be served.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The copy of a workspace is not whole.
    #[error("the workspace {workspace} is incomplete: its last `prepare` was cut off")]
    Incomplete {
        /// `VM:PATH`.
        workspace: String,
        /// The command that makes it whole.
        hint: String,
    },
    /// Both sides changed the same files.
    #[error("{what}: {}", shown(paths))]
    Conflict {
        /// What is in the way.
        what: &'static str,
        /// The files.
        paths: Vec<String>,
        /// What to do.
        hint: String,
    },
    /// A patch does not fit the files of the host.
    #[error("the changes do not fit the files in {}: {words}", top.display())]
    Unfit {
        /// The top of the working tree.
        top: PathBuf,
        /// git's words.
        words: String,
        /// What to do.
        hint: String,
    },
    /// The guest sent what is not taken.
    #[error("refused: {0}")]
    Refused(String),
    /// A limit.
    #[error("the guest sends {what}")]
    Limit {
        /// More than what.
        what: String,
        /// The option that raises it.
        hint: &'static str,
    },
    /// Files changed while they were read.
    #[error("{what}: {}", shown(paths))]
    Unstable {
        /// On which side.
        what: &'static str,
        /// The files.
        paths: Vec<String>,
    },
    /// What was reviewed is not what would be applied.
    #[error("the hash is {found}, not {wanted}: this is not what was reviewed")]
    OtherHash {
        /// What there is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The guest.
    #[error("the guest's part of the work failed")]
    Guest(#[source] lib_guest::Error),
    /// The guest's disk is full.
    #[error("the disk of {vm} is full{}", in_use(disk.as_ref()))]
    Full {
        /// The VM.
        vm: String,
        /// How much of its root is in use, and how large it is, when the guest could say.
        disk: Option<(ByteSize, ByteSize)>,
        /// What could not be written.
        source: Box<WsError>,
    },
    /// A file of the host.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The VM.
    #[error(transparent)]
    Vm(#[from] VmError),
}

fn in_use(disk: Option<&(ByteSize, ByteSize)>) -> String {
    disk.map(|(used, size)| format!(": {used} of {size} are in use"))
        .unwrap_or_default()
}

fn shown(paths: &[String]) -> String {
    const MOST: usize = 5;
    let mut text = paths
        .iter()
        .take(MOST)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if paths.len() > MOST {
        text.push_str(&format!(" and {} more", paths.len() - MOST));
    }
    text
}

/// No space was found: as strerror(3) says it, and so the agent and git, which in places has other words.
fn is_full(words: &str) -> bool {
    ["No space left on device", "Out of diskspace"]
        .iter()
        .any(|said| words.contains(said))
}

impl WsError {
    /// It was the guest that found no space.
    pub(crate) fn is_full_guest(&self) -> bool {
        match self {
            WsError::Guest(lib_guest::Error::Tree(TreeError::Peer(words)))
            | WsError::Refused(words) => is_full(words),
            WsError::Guest(lib_guest::Error::Call(error)) => is_full(&error.message),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WsError {
        let path = path.to_owned();
        move |source| WsError::Io {
            action,
            path,
            source,
        }
    }
}

impl From<lib_guest::Error> for WsError {
    fn from(error: lib_guest::Error) -> WsError {
        match error {
            lib_guest::Error::Interrupted => WsError::Vm(VmError::Interrupted),
            error => WsError::Guest(error),
        }
    }
}

impl Diagnose for WsError {
    fn exit(&self) -> Exit {
        match self {
            WsError::Usage { .. } | WsError::NoRepository { .. } | WsError::NotYours { .. } => {
                Exit::Usage
            }
            WsError::Store(error) => error.exit(),
            WsError::Vm(error) => error.exit(),
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            WsError::NoGit => Some("apt-get install git".into()),
            WsError::OldGit { needed, .. } => Some(format!("install git {needed} or newer")),
            WsError::NoRepository { .. } => {
                Some("git init, or name a directory of a repository".into())
            }
            // git-config(1), safe.directory.
            WsError::NotYours { path } => Some(format!(
                "git config --global --add safe.directory {}   (if you trust who owns it)",
                path.display()
            )),
            WsError::Usage { hint, .. }
            | WsError::Incomplete { hint, .. }
            | WsError::Conflict { hint, .. }
            | WsError::Unfit { hint, .. } => Some(hint.clone()),
            WsError::Limit { hint, .. } => Some((*hint).into()),
            WsError::Full { vm, .. } => Some(format!(
                "banger-vm set {vm} --disk SIZE   (it grows at once; or remove files there), then run it again"
            )),
            WsError::Io { path, source, .. }
                if source.kind() == io::ErrorKind::StorageFull || is_full(&source.to_string()) =>
            {
                let directory = path.parent().unwrap_or(path);
                Some(format!(
                    "df -h {}   (free some space there, then run it again)",
                    directory.display()
                ))
            }
            WsError::Git { words, .. } if is_full(words) => Some(
                "free some disk space: the store's, or the repository's; then run it again".into(),
            ),
            WsError::Unstable { .. } => {
                Some("wait until nothing writes there, then run it again".into())
            }
            WsError::OtherHash { .. } => Some("banger-ws diff   (then apply what it shows)".into()),
            WsError::Store(error) => error.hint(),
            WsError::Vm(error) => error.hint(),
            _ => None,
        }
    }
}
