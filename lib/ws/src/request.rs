//! What is asked for, and what every verb works with.

use std::path::PathBuf;

use lib_guest::Guest;
use lib_model::{ByteSize, Progress};
use lib_store::{Context, Locks, Store, VmRow};
use lib_vm::Interrupt;

use crate::error::{Result, WsError};

/// What every verb works with.
pub struct Env<'a> {
    /// Where everything is.
    pub context: &'a Context,
    /// The rows.
    pub store: &'a mut Store,
    /// The right to take `ws[id]`.
    pub locks: &'a mut Locks,
    /// The user's wish to end.
    pub interrupt: &'a Interrupt,
    /// Where progress goes.
    pub progress: &'a dyn Progress,
    /// Where notes for people go.
    pub note: &'a dyn Fn(&str),
}

impl Env<'_> {
    pub(crate) fn guest(&self, vm: &VmRow) -> Guest {
        Guest::new(lib_vm::runtime(self.context, vm).join(banger_wire::monitor::file::AGENT_SOCKET))
    }
}

/// An error that comes of the user's wish to end is that wish: our git hears of Ctrl-C, too. The signal is taken, or it
/// would end us before that is said.
pub(crate) fn or_interrupted<T>(interrupt: &Interrupt, result: Result<T>) -> Result<T> {
    if result.is_err() {
        interrupt.check()?;
    }
    result
}

/// What an error comes of, where who met it could not know: a wish to end, a full disk of the guest.
pub(crate) fn settled<T>(env: &Env<'_>, vm: &VmRow, result: Result<T>) -> Result<T> {
    let error = match or_interrupted(env.interrupt, result) {
        Err(error) if error.is_full_guest() => error,
        other => return other,
    };
    let stats = env.guest(vm).stats().ok();
    Err(WsError::Full {
        vm: vm.name.to_string(),
        disk: stats.map(|stats| (ByteSize(stats.disk_used), ByteSize(stats.disk_size))),
        source: Box::new(error),
    })
}

/// How much history goes into the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// The commit that is checked out, without those before it.
    #[default]
    Shallow,
    /// Everything that leads to it.
    Full,
    /// No repository: files only.
    WorktreeOnly,
}

impl Mode {
    /// The word on the command line and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Shallow => "shallow",
            Mode::Full => "full",
            Mode::WorktreeOnly => "worktree-only",
        }
    }

    /// From the word.
    pub fn from_word(word: &str) -> Option<Mode> {
        [Mode::Shallow, Mode::Full, Mode::WorktreeOnly]
            .into_iter()
            .find(|mode| mode.as_str() == word)
    }
}

/// What `prepare` is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepare {
    /// The repository, or a directory in it.
    pub source: PathBuf,
    /// Where the guest gets it; relative paths begin at the guest user's home. Without one, the name of
    /// the repository.
    pub path: Option<String>,
    /// How much history.
    pub mode: Mode,
    /// The branch to check out in the guest, made there if it is not the host's own.
    pub branch: Option<String>,
    /// The commit whose files are sent, instead of the working tree's.
    pub from: Option<String>,
    /// Ignored files that go along, by git's patterns.
    pub include_ignored: Vec<String>,
    /// Commands in the guest must not change it.
    pub readonly: bool,
    /// The guest's user who gets it; the image's own when missing.
    pub user: Option<String>,
    /// Throw away what was changed in the guest and is in the way.
    pub force: bool,
}

/// Where an export goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A patch that `git apply` takes, into this file; none is standard output's business.
    Patch(Option<PathBuf>),
    /// A git bundle with the commits.
    Bundle(PathBuf),
    /// A branch of the repository that the workspace came from.
    Branch(String),
    /// The working tree of that repository, uncommitted.
    Worktree,
}

/// The most that a guest may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of content, and of history.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes: 4 << 30,
            entries: 2_000_000,
        }
    }
}
