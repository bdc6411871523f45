//! What comes out: a look, a patch, a bundle, a branch.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use banger_failpoint::point;
use lib_model::WorkspaceRecord;
use lib_store::{Context, Store, VmRow, WorkspaceGuard, WorkspaceRow};

use crate::collect::{self, Collector, Commits};
use crate::error::{Result, WsError};
use crate::git::{Git, Scratch};
use crate::guest_git::GuestGit;
use crate::manifest::Manifest;
use crate::prepare::{SCRATCH, running};
use crate::request::{Env, Limits, Target, or_interrupted, settled};
use crate::review::{self, Review, edit, tree_map};
use crate::walk::shown;

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
            collect::commits(
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
    let review = review::make(
        &opened.scratch,
        &opened.directory,
        &opened.manifest,
        &collected,
        (&vm, &row),
    )?;
    step.done("");
    if !keep {
        return Ok(review);
    }
    review.keep()?;
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

fn load(context: &Context, store: &Store, row: &WorkspaceRow) -> Result<Review> {
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

    /// The tree for a commit on top of what the guest committed, without what the host had not committed.
    fn final_tree(&self) -> Result<(Option<String>, String)> {
        let sides = &self.review.sides[0];
        for inner in &self.review.sides[1..] {
            if inner.tree != inner.root.tree {
                let prefix = String::from_utf8_lossy(&inner.root.prefix).into_owned();
                return Err(WsError::Conflict {
                    what: "changes in submodules cannot be commits of the repository around them",
                    paths: vec![prefix],
                    hint: format!(
                        "banger-ws export {} -o FILE.patch   (the patch has them)",
                        self.selector()
                    ),
                });
            }
        }
        let parent = self.review.tip.clone().or(sides.root.base.clone());
        let clean = sides.root.base_tree.as_deref() == Some(&*sides.root.tree);
        if clean || parent.is_none() || sides.root.base.is_none() {
            return Ok((parent, sides.tree.clone()));
        }
        let before = tree_map(self.scratch, &sides.root.tree)?;
        let after = tree_map(self.scratch, &sides.tree)?;
        let base = tree_map(
            self.scratch,
            sides.root.base_tree.as_deref().unwrap_or_default(),
        )?;
        let on = parent.clone().unwrap_or_default();
        let on = tree_map(self.scratch, &on)?;
        let mut info = Vec::new();
        let mut conflicts = Vec::new();
        let mut paths: Vec<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        // Deletions first: a directory may take a file's name.
        for deleting in [true, false] {
            for path in &paths {
                let (then, now) = (before.get(*path), after.get(*path));
                if then == now || now.is_none() != deleting {
                    continue;
                }
                // The host had changed it and not committed that, nor did the guest.
                if then != base.get(*path) && on.get(*path) == base.get(*path) {
                    conflicts.push(shown(path));
                    continue;
                }
                let line = match now {
                    Some((mode, oid)) => format!("{mode:o} {oid} 0\t"),
                    None => format!("0 {}\t", "0".repeat(sides.tree.len())),
                };
                info.extend(line.into_bytes());
                info.extend_from_slice(path);
                info.push(0);
            }
        }
        if !conflicts.is_empty() {
            return Err(WsError::Conflict {
                what: "changed in the VM, on top of changes that you have not committed",
                paths: conflicts,
                hint: format!(
                    "banger-ws apply {} --worktree   (or: commit yours, prepare and try again)",
                    self.selector()
                ),
            });
        }
        Ok((
            parent.clone(),
            edit(self.scratch, &parent.unwrap_or_default(), &info)?,
        ))
    }

    fn message(&self) -> String {
        format!(
            "Changes from {}:{}\n\nReviewed as {}\n",
            self.review.record.name, self.row.path, self.review.record.hash
        )
    }

    /// A commit with the rest of the changes, if there are any beyond the guest's commits.
    fn commit(
        &self,
        parent: Option<&str>,
        tree: &str,
        commit: impl FnOnce() -> crate::git::Call,
    ) -> Result<String> {
        if let Some(parent) = parent {
            let of_parent = self
                .scratch
                .call("rev-parse")
                .arg(format!("{parent}^{{tree}}"))
                .line()?;
            if of_parent == tree {
                return Ok(parent.to_owned());
            }
        }
        let mut call = commit().arg(tree);
        if let Some(parent) = parent {
            call = call.args(["-p", parent]);
        }
        let output = call
            .args(["-F", "-"])
            .output_of(self.message().as_bytes())?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
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

    fn bundle(&self, file: &Path) -> Result<String> {
        self.refuse_nothing()?;
        let (parent, tree) = self.final_tree()?;
        let tip = self.commit(parent.as_deref(), &tree, || {
            self.scratch.call("commit-tree")
        })?;
        let name = self.row.spec.branch.as_deref().unwrap_or("banger");
        let name = format!("refs/heads/{name}");
        self.scratch
            .call("update-ref")
            .args([&name, &tip])
            .output()?;
        let base = self.review.sides[0].root.base.as_ref();
        let made = beside(file, |new| {
            let target = File::create(new)?;
            let running = self
                .scratch
                .call("bundle")
                .args(["create", "-q", "-", &name])
                .args(base.map(|base| format!("^{base}")))
                .spawn(Stdio::from(target))
                .map_err(io::Error::other)?;
            running.finish().map_err(io::Error::other)
        });
        // Nothing else is to see the name: a bare repository's HEAD could come to mean it.
        self.scratch
            .call("update-ref")
            .args(["-d", &name])
            .output()?;
        made.map(|()| tip)
    }

    /// Returns the branch's commit, and whether it is new there.
    fn branch(&self, branch: &str) -> Result<(String, bool)> {
        self.refuse_nothing()?;
        let top = &self.row.source;
        let user = |name: &str| self.git.of_user(top, name);
        let valid = user("check-ref-format")
            .args(["--branch", branch])
            .line_if_any()?;
        if valid.as_deref() != Some(branch) {
            return Err(WsError::Usage {
                what: format!("`{branch}` is no name of a branch"),
                hint: "git help check-ref-format".into(),
            });
        }
        let name = format!("refs/heads/{branch}");
        let listed = user("worktree").args(["list", "--porcelain"]).output()?;
        let mark = format!("branch {name}");
        if listed
            .split(|byte| *byte == b'\n')
            .any(|line| line == mark.as_bytes())
        {
            return Err(WsError::Usage {
                what: format!("`{branch}` is checked out, and is left alone"),
                hint: format!(
                    "banger-ws apply {} --worktree   (or: --to another branch, and git merge it)",
                    self.selector()
                ),
            });
        }
        let current = user("symbolic-ref").args(["-q", "HEAD"]).line_if_any()?;
        if current.as_deref() == Some(&*name) {
            return Err(WsError::Usage {
                what: format!("`{branch}` is checked out, and is left alone"),
                hint: format!("banger-ws apply {} --worktree", self.selector()),
            });
        }
        let old = user("rev-parse")
            .args(["-q", "--verify"])
            .arg(format!("{name}^{{commit}}"))
            .line_if_any()?;
        let (parent, tree) = self.final_tree()?;
        if let Some(old) = &old {
            if self.is_there(old, parent.as_deref(), &tree)? {
                return Ok((old.clone(), false));
            }
            let parent = parent.as_deref().unwrap_or_default();
            let ahead = self
                .scratch
                .call("merge-base")
                .args(["--is-ancestor", old, parent]);
            if let Err(WsError::Git { .. }) = ahead.output() {
                return Err(WsError::Usage {
                    what: format!("`{branch}` has commits that the workspace does not have"),
                    hint: format!(
                        "banger-ws apply {} --to ANOTHER   (then: git merge ANOTHER)",
                        self.selector()
                    ),
                });
            }
        }
        self.transfer(parent.as_deref(), &tree)?;
        point("workspace.apply").map_err(WsError::io("write to", top))?;
        let tip = self.commit(parent.as_deref(), &tree, || user("commit-tree"))?;
        let expected = old.unwrap_or_else(|| "0".repeat(tip.len()));
        user("update-ref")
            .args(["-m", "banger-ws: apply", &name, &tip, &expected])
            .output()?;
        Ok((tip, true))
    }

    /// Whether a commit is what would be made: the same files, on the same commit.
    fn is_there(&self, old: &str, parent: Option<&str>, tree: &str) -> Result<bool> {
        let ask = |what: String| {
            let call = self.git.of_user(&self.row.source, "rev-parse");
            call.args(["-q", "--verify", &what]).line_if_any()
        };
        let same_files = ask(format!("{old}^{{tree}}"))?.as_deref() == Some(tree);
        Ok(same_files && (Some(old) == parent || ask(format!("{old}^"))?.as_deref() == parent))
    }

    /// Copies objects into the user's repository, each checked there once more.
    fn transfer(&self, parent: Option<&str>, tree: &str) -> Result<()> {
        let mut wanted = format!("{tree}\n");
        wanted.extend(parent.map(|parent| format!("{parent}\n")));
        wanted.extend(
            self.review.sides[0]
                .root
                .base
                .iter()
                .map(|base| format!("^{base}\n")),
        );
        let mut taking = self
            .git
            .of_user(&self.row.source, "unpack-objects")
            .args(["-q", "--strict"])
            .spawn(Stdio::null())?;
        let Some(pipe) = taking.stdin.take() else {
            return taking.finish();
        };
        let mut giving = self
            .scratch
            .call("pack-objects")
            .args(["--revs", "--stdout", "-q"])
            .spawn(Stdio::from(std::os::fd::OwnedFd::from(pipe)))?;
        if let Some(mut stdin) = giving.stdin.take() {
            use std::io::Write;
            stdin
                .write_all(wanted.as_bytes())
                .map_err(giving.failed())?;
        }
        giving.finish()?;
        taking.finish()
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
