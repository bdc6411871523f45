//! Whether the host's repository has moved on since a workspace was prepared: one look, for every `exec`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use lib_store::WorkspaceRow;

use crate::error::Result;
use crate::git::Git;
use crate::repository::Repository;
use crate::request::{Mode, Prepare};

/// The host's git in the owner's repository, whatever a hook's variables say.
pub(crate) fn git(source: &Path) -> Command {
    let mut git = Command::new("git");
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"GIT_") {
            git.env_remove(variable);
        }
    }
    git.env("GIT_OPTIONAL_LOCKS", "0").arg("-C").arg(source);
    git.args(["-c", "core.fsmonitor=false"]);
    git
}

/// A look that goes on while the caller does something else.
pub struct Look {
    git: Option<Child>,
    base: Option<String>,
}

impl Look {
    /// Begins. A repository that is gone, or a host without git, has not moved.
    pub fn begin(workspace: &WorkspaceRow) -> Look {
        // Who asked for a certain commit has it, wherever the host is.
        let wanted = workspace.spec.from.is_none() && workspace.spec.mode != "worktree-only";
        let git = wanted.then(|| {
            git(&workspace.source)
                .args(["rev-parse", "--verify", "--quiet", "HEAD"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        });
        Look {
            git: git.and_then(std::result::Result::ok),
            base: workspace.spec.base.clone(),
        }
    }

    /// The commit that the host is at, when that is another one than the workspace's.
    pub fn moved(self) -> Option<String> {
        let output = self.git?.wait_with_output().ok()?;
        let head = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        // A repository without commits has no HEAD yet; then it has one.
        (!head.is_empty() && self.base.as_ref() != Some(&head)).then_some(head)
    }
}

/// Checks that there is a repository with a working tree, before a VM is made for it.
///
/// # Errors
/// As [`crate::prepare`].
pub fn check_source(request: &Prepare) -> Result<()> {
    Repository::find(&Git::find()?, &request.source).map(drop)
}

impl Prepare {
    /// What was asked for when the workspace was prepared last.
    pub fn again(workspace: &WorkspaceRow) -> Prepare {
        let spec = &workspace.spec;
        Prepare {
            source: workspace.source.clone(),
            path: Some(workspace.path.clone()),
            mode: Mode::from_word(&spec.mode).unwrap_or_default(),
            branch: spec.branch.clone(),
            from: spec.from.clone(),
            include_ignored: spec.include_ignored.clone(),
            readonly: spec.readonly,
            user: spec.user.clone(),
            force: false,
        }
    }
}
