//! What changed in the guest since the copy: the guest's files against the manifest, its commits, and both
//! as objects in the scratch repository.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use lib_guest::{Directory, Error};

use crate::blobs::{self, Blob};
use crate::error::{Result, WsError};
use crate::git::Scratch;
use crate::guest_git::{GuestGit, Output, said};
use crate::index::git_mode;
use crate::manifest::{GITLINK, Kept, Manifest};
use crate::request::Limits;
use crate::walk::{Walk, Walker, parent, shown};

/// A tree that changes while it is read is read again so often.
const TRIES: usize = 4;

/// The commits that were made in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Commits {
    /// The last of them.
    pub(crate) tip: Option<String>,
    /// How many.
    pub(crate) count: u64,
    /// Paths that they touch.
    pub(crate) touched: HashSet<Vec<u8>>,
    /// Why there are commits that are not kept.
    pub(crate) lost: Option<String>,
}

/// The guest's side, compared.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// Changed and new files; as blobs that exist in the scratch repository.
    pub(crate) changed: BTreeMap<Vec<u8>, Blob>,
    /// Files that are gone.
    pub(crate) deleted: BTreeSet<Vec<u8>>,
    /// The guest's commits.
    pub(crate) commits: Commits,
    /// What is not taken.
    pub(crate) left_out: Vec<String>,
    /// Of that, what was refused.
    pub(crate) refused: Vec<String>,
}

/// How to collect.
pub(crate) struct Collector<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) manifest: &'a Manifest,
    pub(crate) include_ignored: &'a [String],
    pub(crate) limits: Limits,
    pub(crate) progress: &'a dyn Fn(u64),
}

impl Collector<'_> {
    /// Compares, fetches what differs, and looks again until nothing moved meanwhile.
    ///
    /// # Errors
    /// [`WsError::Unstable`] for a tree that does not come to rest; [`WsError::Limit`]; [`WsError::Guest`].
    pub(crate) fn collect(
        &self,
        directory: &mut Directory<'_>,
        commits: Commits,
    ) -> Result<Collected> {
        let walker = Walker {
            manifest: Some(self.manifest),
            tracked: &commits.touched,
            include_ignored: self.include_ignored,
            limits: self.limits,
        };
        let mut before = walker.walk(directory)?;
        let mut known: BTreeMap<Vec<u8>, Blob> = BTreeMap::new();
        for _ in 0..TRIES {
            let wanted: Vec<Vec<u8>> = self
                .candidates(&before)
                .filter(|path| !known.contains_key(*path))
                .cloned()
                .collect();
            // Nothing was read, so nothing can have moved meanwhile.
            if wanted.is_empty() && known.is_empty() {
                return Ok(self.compare(&before, known, commits));
            }
            let fetched = blobs::import(
                self.scratch,
                directory,
                &wanted,
                |path| {
                    self.manifest
                        .items
                        .get(path)
                        .map_or(Kept::AsIs, |item| item.kept)
                },
                self.limits.bytes,
                self.progress,
            )?;
            known.extend(fetched);
            let read = known.keys().map(|path| parent(path)).collect();
            let after = walker.walk_again(directory, &before, &read)?;
            let moved = moved(&before, &after);
            let missing = self
                .candidates(&after)
                .any(|path| !known.contains_key(path));
            if moved.is_empty() && !missing {
                return Ok(self.compare(&after, known, commits));
            }
            for path in &moved {
                known.remove(path);
            }
            before = after;
        }
        let after = walker.walk(directory)?;
        let mut paths: Vec<String> = moved(&before, &after).iter().map(|p| shown(p)).collect();
        if paths.is_empty() {
            let missing = self
                .candidates(&after)
                .filter(|path| !known.contains_key(*path));
            paths = missing.map(|path| shown(path)).collect();
        }
        Err(WsError::Unstable {
            what: "the workspace changes in the VM while it is read",
            paths,
        })
    }

    /// Files that are not certainly what was sent.
    fn candidates<'w>(&'w self, walk: &'w Walk) -> impl Iterator<Item = &'w Vec<u8>> {
        walk.files
            .iter()
            .filter(|(path, listed)| {
                let item = self.manifest.items.get(*path);
                item.is_none_or(|item| item.guest.as_ref() != Some(*listed))
            })
            .map(|(path, _)| path)
    }

    fn compare(&self, walk: &Walk, known: BTreeMap<Vec<u8>, Blob>, commits: Commits) -> Collected {
        let mut collected = Collected {
            commits,
            left_out: walk.left_out.clone(),
            refused: walk.refused.clone(),
            ..Collected::default()
        };
        for (path, listed) in &walk.files {
            let item = self.manifest.items.get(path);
            if item.is_some_and(|item| item.guest.as_ref() == Some(listed)) {
                continue;
            }
            let Some(blob) = known.get(path) else {
                continue;
            };
            let same = item.is_some_and(|item| item.is(git_mode(listed), &blob.oid));
            if !same {
                collected.changed.insert(path.clone(), blob.clone());
            }
        }
        for (path, item) in &self.manifest.items {
            if !item.absent && item.mode != GITLINK && !walk.files.contains_key(path) {
                collected.deleted.insert(path.clone());
            }
        }
        collected
    }
}

/// Paths that differ between two walks.
fn moved(before: &Walk, after: &Walk) -> Vec<Vec<u8>> {
    let mut moved: Vec<Vec<u8>> = Vec::new();
    for (path, listed) in &after.files {
        if before.files.get(path) != Some(listed) {
            moved.push(path.clone());
        }
    }
    let gone = before
        .files
        .keys()
        .filter(|path| !after.files.contains_key(*path));
    moved.extend(gone.cloned());
    moved
}

/// Gets the commits that were made on top of `base`, through `index-pack` (git-index-pack(1)) with its checks.
///
/// # Errors
/// [`WsError::Git`] when objects are refused, [`WsError::Limit`] when there are too many; those of the
/// connection.
pub(crate) fn commits(
    scratch: &Scratch,
    guest: &GuestGit<'_>,
    base: Option<&str>,
    format: &str,
    limits: Limits,
) -> Result<Commits> {
    let none = Commits::default();
    let tip = match guest.line(&["rev-parse", "-q", "--verify", "HEAD^{commit}"]) {
        Ok(tip) => tip,
        // Somebody removed it.
        Err(WsError::Guest(Error::Call(_))) => None,
        Err(error) => return Err(error),
    };
    let Some(tip) = tip else {
        return Ok(none);
    };
    if !is_object_name(&tip, format) {
        return Err(WsError::Refused("the guest's HEAD is no commit".into()));
    }
    if base == Some(&tip) {
        return Ok(none);
    }
    if !has(scratch, &tip)? {
        fetch_pack(scratch, guest, &tip, base, limits)?;
    }
    let kind = scratch.call("cat-file").args(["-t", &tip]).line()?;
    if kind != "commit" {
        return Err(WsError::Refused("the guest's HEAD is no commit".into()));
    }
    let exclude = base.map(|base| format!("^{base}"));
    if let Some(base) = base {
        let ancestor = scratch
            .call("merge-base")
            .args(["--is-ancestor", base, &tip]);
        if let Err(WsError::Git { .. }) = ancestor.output() {
            return Ok(Commits {
                lost: Some(
                    "the history in the VM was rewritten: its commits are not kept, their changes are"
                        .into(),
                ),
                ..none
            });
        }
    }
    let count = scratch
        .call("rev-list")
        .args(["--count", &tip])
        .args(exclude.iter())
        .line()?;
    let list = scratch
        .call("rev-list")
        .arg(&tip)
        .args(exclude.iter())
        .output()?;
    let touched = scratch
        .call("diff-tree")
        .args([
            "--stdin",
            "-r",
            "-m",
            "-z",
            "--root",
            "--name-only",
            "--no-commit-id",
        ])
        .output_of(&list)?;
    Ok(Commits {
        tip: Some(tip),
        count: count.parse().unwrap_or(0),
        touched: touched
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty())
            .map(<[u8]>::to_owned)
            .collect(),
        lost: None,
    })
}

fn has(scratch: &Scratch, oid: &str) -> Result<bool> {
    match scratch.call("cat-file").args(["-e", oid]).output() {
        Ok(_) => Ok(true),
        Err(WsError::Git { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_object_name(text: &str, format: &str) -> bool {
    let length = if format == "sha256" { 64 } else { 40 };
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn fetch_pack(
    scratch: &Scratch,
    guest: &GuestGit<'_>,
    tip: &str,
    base: Option<&str>,
    limits: Limits,
) -> Result<()> {
    let exclude = base.map(|base| format!("^{base}\n")).unwrap_or_default();
    let wanted = said(&format!("{tip}\n{exclude}")).map_err(|source| WsError::Io {
        action: "make a pipe in",
        path: scratch.path.clone(),
        source,
    })?;
    let mut running = scratch
        .call("index-pack")
        .args(["--stdin", "--strict", "--fsck-objects", "--threads=1"])
        .arg(format!("--max-input-size={}", limits.bytes))
        .spawn(Stdio::null())?;
    let pipe = running.stdin.take().map(OwnedFd::from);
    let sink = pipe
        .as_ref()
        .map_or(Output::Null, |pipe| Output::Fd(pipe.as_fd()));
    let arguments = ["pack-objects", "--revs", "--stdout", "-q"];
    let ended = guest.run(&arguments, Some(wanted.as_fd()), sink);
    drop(pipe);
    let indexed = running.finish();
    match (ended?, indexed) {
        (_, Err(WsError::Git { words, .. })) if words.contains("maximum allowed size") => {
            Err(WsError::Limit {
                what: format!("more than {} bytes of commits", limits.bytes),
                hint: "banger-ws … --max-size SIZE",
            })
        }
        (_, Err(WsError::Git { words, .. })) => Err(WsError::Refused(format!(
            "commits of the VM that git does not accept: {words}"
        ))),
        (_, Err(error)) => Err(error),
        (ended, Ok(())) if ended.status != 0 => Err(WsError::Refused(format!(
            "git in the VM ended with status {}: {}",
            ended.status, ended.words
        ))),
        (_, Ok(())) => Ok(()),
    }
}
