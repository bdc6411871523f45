//! What changed in the guest since the copy: the guest's files against the manifest, as objects in the scratch
//! repository.

use std::collections::{BTreeMap, BTreeSet};

use lib_guest::Directory;

use crate::blobs::{self, Blob};
use crate::commits::Commits;
use crate::error::{Result, WsError};
use crate::git::Scratch;
use crate::index::git_mode;
use crate::manifest::{GITLINK, Kept, Manifest};
use crate::request::Limits;
use crate::walk::{Walk, Walker, parent, shown};

/// A tree that changes while it is read is read again so often.
const TRIES: usize = 4;

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
