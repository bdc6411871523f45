//! Records of workspaces: repositories that went into a guest, and what changed there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{VmId, VmName, WorkspaceId};

/// A repository in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: WorkspaceId,
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// Where the guest has it.
    pub path: String,
    /// Where it came from: the top of a working tree on the host.
    pub source: PathBuf,
    /// How much history went along: `shallow`, `full` or `worktree-only`.
    pub mode: String,
    /// The branch that is checked out in the guest.
    #[serde(default)]
    pub branch: Option<String>,
    /// The commit that it was prepared from; none for a repository without commits.
    #[serde(default)]
    pub base: Option<String>,
    /// The guest has a git repository there, not only files.
    pub git: bool,
    /// Commands in the guest cannot change it.
    #[serde(default)]
    pub readonly: bool,
    /// The copy is whole; else `prepare` was cut off and has to be run again.
    pub ready: bool,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub prepared_ms: Option<u64>,
    /// Files that the last `prepare` sent.
    #[serde(default)]
    pub sent_files: u64,
    /// Bytes of them.
    #[serde(default)]
    pub sent_bytes: u64,
    /// The commit that the host's repository is at now, where that was looked at.
    #[serde(default)]
    pub head: Option<String>,
    /// The host's repository is at another commit than the workspace was prepared from.
    #[serde(default)]
    pub stale: bool,
    /// Files that changed in the guest, where that was looked at.
    #[serde(default)]
    pub changes: Option<u64>,
    /// Commits that were made in the guest, where that was looked at.
    #[serde(default)]
    pub commits: Option<u64>,
    /// The command that prints this changed something.
    #[serde(default)]
    pub changed: bool,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeStatus {
    /// It is new.
    Added,
    /// Its content or mode is another.
    Modified,
    /// It is gone.
    Deleted,
    /// It has another name; the content may differ a little.
    Renamed,
    /// It became something else: a link, a file.
    TypeChanged,
}

impl ChangeStatus {
    /// As git's letter.
    pub fn letter(self) -> char {
        match self {
            ChangeStatus::Added => 'A',
            ChangeStatus::Modified => 'M',
            ChangeStatus::Deleted => 'D',
            ChangeStatus::Renamed => 'R',
            ChangeStatus::TypeChanged => 'T',
        }
    }
}

/// Why a change deserves a look of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Scripts that git or a tool for its hooks runs.
    Hook,
    /// Configuration of continuous integration, which runs with the project's secrets.
    Ci,
    /// A file that shells, editors or environment tools run when a directory is entered or opened.
    Autorun,
    /// A file that may be executed.
    Executable,
    /// A symbolic link.
    Symlink,
    /// A symbolic link that leads out of the repository.
    SymlinkOut,
    /// `.gitattributes`, `.lfsconfig`: choose filters and drivers that git runs, and whom they talk to.
    Attributes,
    /// `.gitmodules`: from where other repositories are fetched.
    Submodules,
    /// A file that builds and package managers run.
    Build,
    /// The name has characters that do not show, or that show as others.
    OddName,
    /// The host's git keeps it in another way than a working tree has it (a filter, `ident`, another encoding), which
    /// was not done to it.
    Filtered,
}

impl Risk {
    /// The word in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Risk::Hook => "hook",
            Risk::Ci => "ci",
            Risk::Autorun => "autorun",
            Risk::Executable => "executable",
            Risk::Symlink => "symlink",
            Risk::SymlinkOut => "symlink-out",
            Risk::Attributes => "attributes",
            Risk::Submodules => "submodules",
            Risk::Build => "build",
            Risk::OddName => "odd-name",
            Risk::Filtered => "filtered",
        }
    }
}

/// A file of a workspace that changed since `prepare`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The workspace.
    pub id: WorkspaceId,
    /// Its VM.
    pub name: VmName,
    /// In the repository; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What it was called before.
    #[serde(default)]
    pub from: Option<String>,
    /// What happened.
    pub status: ChangeStatus,
    /// Git's octal mode before; none for a new file.
    #[serde(default)]
    pub old_mode: Option<String>,
    /// Git's octal mode now; none for one that is gone.
    #[serde(default)]
    pub new_mode: Option<String>,
    /// Lines that came; none for a binary file.
    #[serde(default)]
    pub added: Option<u64>,
    /// Lines that went; none for a binary file.
    #[serde(default)]
    pub removed: Option<u64>,
    /// What to look at.
    #[serde(default)]
    pub risks: Vec<Risk>,
}

/// What came out of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The workspace.
    pub id: WorkspaceId,
    /// Its VM.
    pub name: VmName,
    /// `sha256:` of the changes as a patch: what was reviewed is what has this hash.
    pub hash: String,
    /// The commit that it was prepared from.
    #[serde(default)]
    pub base: Option<String>,
    /// The last commit of the export; none when nothing changed.
    #[serde(default)]
    pub tip: Option<String>,
    /// Commits that were made in the guest and are kept.
    pub commits: u64,
    /// Files that changed.
    pub files: u64,
    /// Files with a risk.
    pub risky: u64,
    /// What the guest has and the export has not, and why.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// `patch`, `bundle`, `branch` or `worktree`; none when it was only looked at.
    #[serde(default)]
    pub format: Option<String>,
    /// The file or branch that has it now.
    #[serde(default)]
    pub target: Option<String>,
    /// Something was written.
    #[serde(default)]
    pub changed: bool,
}
