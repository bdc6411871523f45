//! What was reviewed goes to its target, exactly; the guest is not asked.

mod branch;

use std::fs;
use std::io;
use std::path::Path;

use banger_failpoint::point;
use lib_store::{Store, WorkspaceGuard, WorkspaceRow};

use crate::error::{Result, WsError};
use crate::export::load;
use crate::git::{Git, Scratch};
use crate::prepare::SCRATCH;
use crate::request::{Env, Target, or_interrupted};
use crate::review::{self, Review};

/// Gives what was reviewed to its target, exactly; the guest is not asked. `wanted` is the hash, or its
/// beginning, that it must have.
///
/// # Errors
/// [`WsError::OtherHash`]; see [`WsError`].
pub fn apply(
    env: &mut Env<'_>,
    row: &WorkspaceRow,
    target: &Target,
    wanted: Option<&str>,
) -> Result<Review> {
    let interrupt = env.interrupt;
    or_interrupted(interrupt, give(env, row, target, wanted))
}

fn give(
    env: &mut Env<'_>,
    row: &WorkspaceRow,
    target: &Target,
    wanted: Option<&str>,
) -> Result<Review> {
    let guard = env.locks.workspace(&row.vm)?;
    let mut row = env.store.workspace(row.id.as_str())?;
    let directory = env.context.workspace(&row.vm, &row.id);
    let mut review = load(env.context, env.store, &row)?;
    let git = Git::find()?;
    let scratch = Scratch {
        git: git.clone(),
        path: directory.join(SCRATCH),
        alternates: review
            .sides
            .iter()
            .map(|sides| sides.root.objects.clone())
            .collect(),
    };
    if let Some(wanted) = wanted {
        refuse_other(&review, wanted)?;
    }
    match target {
        Target::Patch(_) | Target::Worktree => review::verify_patch(&scratch, &review)?,
        Target::Bundle(_) | Target::Branch(_) => review::verify_trees(&scratch, &review)?,
    }
    review.hold()?;
    let work = Work {
        git: &git,
        scratch: &scratch,
        row: &row,
        review: &review,
    };
    let mut changed = !review.is_empty();
    let (format, target, tip) = match target {
        Target::Patch(None) => ("patch", None, None),
        Target::Patch(Some(file)) => {
            work.patch(file)?;
            ("patch", Some(file.display().to_string()), None)
        }
        Target::Bundle(file) => {
            let tip = work.bundle(file)?;
            ("bundle", Some(file.display().to_string()), Some(tip))
        }
        Target::Branch(branch) => {
            let tip;
            (tip, changed) = work.branch(branch)?;
            ("branch", Some(branch.clone()), Some(tip))
        }
        Target::Worktree => {
            changed = work.worktree()?;
            ("worktree", Some(row.source.display().to_string()), None)
        }
    };
    review.record.format = Some(format.into());
    review.record.target = target;
    review.record.tip = tip.or(review.record.tip);
    review.record.changed = changed;
    remember(env.store, &guard, &mut row, &review)?;
    Ok(review)
}

fn remember(
    store: &mut Store,
    guard: &WorkspaceGuard<'_>,
    row: &mut WorkspaceRow,
    review: &Review,
) -> Result<()> {
    row.spec.exported = Some(review.record.hash.clone());
    Ok(store.update_workspace(guard, row)?)
}

fn refuse_other(review: &Review, wanted: &str) -> Result<()> {
    const SHORTEST: usize = 12;
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let have = review
        .record
        .hash
        .strip_prefix("sha256:")
        .unwrap_or_default();
    if digits.len() < SHORTEST {
        return Err(WsError::Usage {
            what: format!("`{wanted}` is too short for a hash, {SHORTEST} digits are needed"),
            hint: "banger-ws diff   (its last line has the hash)".into(),
        });
    }
    match have.starts_with(&digits.to_ascii_lowercase()) {
        true => Ok(()),
        false => Err(WsError::OtherHash {
            found: review.record.hash.clone(),
            wanted: wanted.to_owned(),
        }),
    }
}

struct Work<'a> {
    git: &'a Git,
    scratch: &'a Scratch,
    row: &'a WorkspaceRow,
    review: &'a Review,
}

impl Work<'_> {
    /// As the user would name the workspace.
    fn selector(&self) -> String {
        format!("{}:{}", self.review.record.name, self.row.path)
    }

    fn patch(&self, file: &Path) -> Result<()> {
        let from = self.review.patch_path();
        beside(file, |new| fs::copy(&from, new).map(drop))
    }

    fn refuse_nothing(&self) -> Result<()> {
        match self.review.is_empty() {
            true => Err(WsError::Usage {
                what: "nothing changed in the workspace".into(),
                hint: format!("banger-ws status {}", self.selector()),
            }),
            false => Ok(()),
        }
    }

    /// All of it or nothing, as `git apply` does it; returns whether it was not there yet.
    fn worktree(&self) -> Result<bool> {
        if self.review.changes.is_empty() {
            return self.refuse_nothing().map(|()| false);
        }
        let apply = |arguments: &[&str]| {
            let call = self.git.of_user(&self.row.source, "apply");
            call.args(["--binary", "--whitespace=nowarn"])
                .args(arguments)
                .arg(self.review.patch_path())
                .apart()
                .output()
        };
        match apply(&[]) {
            Ok(_) => Ok(true),
            // What can be taken back is there.
            Err(WsError::Git { .. }) if apply(&["--reverse", "--check"]).is_ok() => Ok(false),
            Err(WsError::Git { words, .. }) => Err(WsError::Unfit {
                top: self.row.source.clone(),
                words,
                hint: format!(
                    "banger-ws apply {} --to BRANCH   (then: git merge BRANCH)",
                    self.selector()
                ),
            }),
            Err(error) => Err(error),
        }
    }
}

/// Writes a file whole or not at all.
fn beside(file: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".banger-new");
    let new = file.with_file_name(name);
    let written = point("workspace.export")
        .and_then(|()| write(&new))
        .and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(WsError::io("write", file))
}
