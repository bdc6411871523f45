//! What comes out: a look at what changed, and what of it was reviewed.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use lib_model::WorkspaceRecord;
use lib_store::{Context, Store, VmRow, WorkspaceRow};

use crate::collect::Collector;
use crate::commits::{self, Commits};
use crate::error::{Result, WsError};
use crate::filtered;
use crate::git::{Git, Scratch};
use crate::guest_git::GuestGit;
use crate::manifest::Manifest;
use crate::prepare::{SCRATCH, running};
use crate::request::{Env, Limits, settled};
use crate::review::{self, Review};

/// A workspace with what it takes to work on its objects.
struct Opened {
    directory: PathBuf,
    manifest: Manifest,
    scratch: Scratch,
}

/// Looks what changed in the guest, and keeps it as what was reviewed.
///
/// # Errors
/// See [`WsError`]; then what was reviewed before stays.
pub fn review(env: &mut Env<'_>, row: &WorkspaceRow, limits: Limits) -> Result<Review> {
    compare(env, row, limits, true)
}

/// Looks what changed in the guest. What was reviewed before stays what `apply` applies, and the result has
/// no patch.
///
/// # Errors
/// See [`WsError`].
pub fn look(env: &mut Env<'_>, row: &WorkspaceRow, limits: Limits) -> Result<Review> {
    compare(env, row, limits, false)
}

fn compare(env: &mut Env<'_>, row: &WorkspaceRow, limits: Limits, keep: bool) -> Result<Review> {
    let vm = env.store.vm(row.vm.as_str())?;
    let compared = differ(env, &vm, row, limits, keep);
    settled(env, &vm, compared)
}

fn differ(
    env: &mut Env<'_>,
    vm: &VmRow,
    row: &WorkspaceRow,
    limits: Limits,
    keep: bool,
) -> Result<Review> {
    let vm = running(env, vm)?;
    let guest = env.guest(&vm);
    let guard = env.locks.workspace(&vm.id)?;
    // Somebody may have prepared it again while we waited.
    let mut row = env.store.workspace(row.id.as_str())?;
    let opened = open(env.context, &vm, &row)?;
    let interrupt = env.interrupt.signals().map(AsFd::as_fd);
    let user = row.spec.user.clone();
    let step = env.progress.step("looking at the workspace", None);
    let commits = match row.spec.git {
        true => {
            let guest_git = GuestGit {
                guest: &guest,
                path: &row.path,
                user: user.as_deref(),
                interrupt: env.interrupt,
            };
            let base = opened.manifest.roots[0].base.as_deref();
            commits::collect(
                &opened.scratch,
                &guest_git,
                base,
                &opened.manifest.format,
                limits,
            )?
        }
        false => Commits::default(),
    };
    let path = row.path.clone();
    let mut directory = guest.open_directory(path.as_bytes(), user.as_deref(), false, interrupt)?;
    let collector = Collector {
        scratch: &opened.scratch,
        manifest: &opened.manifest,
        include_ignored: &row.spec.include_ignored,
        limits,
        progress: &|bytes| step.advance(bytes),
    };
    let collected = collector.collect(&mut directory, commits)?;
    drop(directory);
    point("workspace.review").map_err(WsError::io("write to", &opened.directory))?;
    let mut review = review::make(
        &opened.scratch,
        &opened.directory,
        &opened.manifest,
        &collected,
        &filtered::new_files(
            &opened.scratch.git,
            &row.source,
            &opened.manifest,
            &collected,
        ),
        (&vm, &row),
    )?;
    step.done("");
    if !keep {
        return Ok(review);
    }
    review.keep()?;
    review.hold()?;
    row.spec.reviewed = Some(review.record.hash.clone());
    env.store.update_workspace(&guard, &row)?;
    Ok(review)
}

fn open(context: &Context, vm: &VmRow, row: &WorkspaceRow) -> Result<Opened> {
    let git = Git::find()?;
    let directory = context.workspace(&row.vm, &row.id);
    let incomplete = || {
        let mut hint = format!("banger-ws prepare {} {}", vm.name, row.source.display());
        if Path::new(&row.path).file_name() != row.source.file_name() {
            hint.push_str(&format!(" --path {}", row.path));
        }
        WsError::Incomplete {
            workspace: format!("{}:{}", vm.name, row.path),
            hint,
        }
    };
    if row.prepared_ms.is_none() {
        return Err(incomplete());
    }
    let manifest = Manifest::load(&directory)?.ok_or_else(incomplete)?;
    let scratch = Scratch {
        git,
        path: directory.join(SCRATCH),
        alternates: manifest.alternates(),
    };
    Ok(Opened {
        directory,
        manifest,
        scratch,
    })
}

/// What was reviewed last.
///
/// # Errors
/// [`WsError::Usage`] when nothing was.
pub fn reviewed(env: &Env<'_>, row: &WorkspaceRow) -> Result<Review> {
    load(env.context, env.store, row)
}

pub(crate) fn load(context: &Context, store: &Store, row: &WorkspaceRow) -> Result<Review> {
    match Review::load(&context.workspace(&row.vm, &row.id))? {
        Some(review) => Ok(review),
        None => Err(WsError::Usage {
            what: "nothing of this workspace was reviewed yet".into(),
            hint: format!(
                "banger-ws diff {}:{}",
                store.vm(row.vm.as_str())?.name,
                row.path
            ),
        }),
    }
}

/// How a workspace is: what the host's repository is at, and with `review` what changed in the guest.
///
/// # Errors
/// When the host's git fails; a repository that is gone is no error.
pub fn status(vm: &VmRow, row: &WorkspaceRow, review: Option<&Review>) -> Result<WorkspaceRecord> {
    let mut record = row.record(vm);
    record.head = head(row)?;
    // A workspace of another commit than HEAD was asked for, and does not age.
    record.stale = row.spec.from.is_none() && record.head != row.spec.base;
    if let Some(review) = review {
        record.changes = Some(review.record.files);
        record.commits = Some(review.record.commits);
    }
    Ok(record)
}

/// The commit that the host's repository is at now; none when it has none, or is gone.
///
/// # Errors
/// [`WsError::NoGit`] and the like.
pub fn head(row: &WorkspaceRow) -> Result<Option<String>> {
    let git = Git::find()?;
    git.of_user(&row.source, "rev-parse")
        .args(["-q", "--verify", "HEAD^{commit}"])
        .line_if_any()
}
