//! The guest's repository: made once, later given what is new.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use banger_tree::Piece;

use super::{Preparation, endless};
use crate::commits::Commits;
use crate::error::{Result, WsError};
use crate::git::Scratch;
use crate::guest_git::Output;
use crate::index;
use crate::manifest::Manifest;
use crate::place::{self, Made};
use crate::request::Mode;

/// Where a repository has its packs (gitrepository-layout(5)).
const PACKS: &[u8] = b".git/objects/pack";
/// A repository with more files there does not end.
const MOST_PACKS: u32 = 100_000;

impl Preparation<'_, '_> {
    /// The guest's branch is not moved away from its own commits.
    pub(super) fn refuse_moved(&self, commits: &Commits) -> Result<()> {
        let own = commits.tip.is_some() || commits.lost.is_some();
        match self.row.spec.git && own && !self.request.force {
            false => Ok(()),
            true => Err(WsError::Conflict {
                what: "the repository has moved on, and commits were made in the VM",
                paths: commits.tip.iter().cloned().collect(),
                hint: format!(
                    "banger-ws export {}:{} --apply-to BRANCH   (or: banger-ws prepare --force …)",
                    self.vm.name, self.row.path
                ),
            }),
        }
    }

    /// Makes the guest's repository, or brings a new commit into it.
    pub(super) fn history(&mut self, fresh: bool, moved: bool) -> Result<()> {
        if !self.row.spec.git || !moved {
            return Ok(());
        }
        let spec = &self.row.spec;
        let full = spec.mode == Mode::Full.as_str();
        let base = spec.base.as_deref();
        let mut shallow = match (full, base) {
            (false, Some(base)) => format!("{base}\n"),
            // The host's own history may end early, too.
            _ => fs::read_to_string(place::git_path(self.git, self.repository, "shallow")?)
                .unwrap_or_default(),
        };
        if !full
            && !fresh
            && let Some(old) = &self.old_base
        {
            shallow.push_str(&format!("{old}\n"));
        }
        let mut files = Vec::new();
        if !shallow.is_empty() {
            files.push(Made::file(".git/shallow", shallow.into_bytes()));
        }
        // Later it is the guest's: who works there has set a name, or a remote.
        if fresh {
            let format = &self.repository.format;
            files.extend(place::repository(format, spec.branch.as_deref(), base));
            let excludes = self.repository.excludes(self.git)?;
            files.push(Made::file(".git/info/exclude", excludes));
        }
        place::made(self.directory, files)?;
        let Some(base) = base else {
            return Ok(());
        };
        let mut wanted = String::new();
        if !full {
            wanted.push_str(&format!("--shallow {base}\n"));
        }
        wanted.push_str(&format!("{base}\n"));
        if let Some(old) = self.old_base.as_ref().filter(|_| !fresh) {
            wanted.push_str(&format!("^{old}\n"));
        }
        let step = self.progress.step("history", None);
        let before = self.unfinished_packs()?;
        let packed = self.pack(&wanted, full);
        if packed.is_err() {
            self.sweep_packs(&before);
        }
        packed?;
        step.done("");
        let files = place::head(self.row.spec.branch.as_deref(), base);
        place::made(self.directory, files)
    }

    /// Streams a pack from the repository into the guest's `index-pack`.
    fn pack(&self, wanted: &str, full: bool) -> Result<()> {
        let window = if full { "10" } else { "0" };
        let mut packing = self
            .git
            .of_user(&self.repository.top, "pack-objects")
            .args(["--revs", "--stdout", "-q", "--delta-base-offset"])
            .args(["--window-memory=16m", "--threads=2"])
            .arg(format!("--window={window}"))
            .spawn(Stdio::piped())?;
        if let Some(mut stdin) = packing.stdin.take() {
            stdin
                .write_all(wanted.as_bytes())
                .map_err(packing.failed())?;
        }
        let Some(pipe) = packing.child.stdout.take().map(OwnedFd::from) else {
            return packing.finish();
        };
        let arguments = ["index-pack", "--stdin"];
        let taken = self
            .guest_git
            .run(&arguments, Some(pipe.as_fd()), Output::Null);
        drop(pipe);
        let packed = packing.finish();
        let taken = taken?;
        if taken.status != 0 {
            return Err(WsError::Refused(format!(
                "git in the VM did not take the history (status {}): {}",
                taken.status, taken.words
            )));
        }
        packed
    }

    /// Packs that somebody in the guest is writing, or was: git leaves them behind when it is ended.
    fn unfinished_packs(&self) -> Result<BTreeSet<Vec<u8>>> {
        // By a connection of its own, which no wish to end cuts off.
        let (path, user) = (self.row.path.as_bytes(), self.request.user.as_deref());
        let mut directory = self.guest.open_directory(path, user, false, None)?;
        let (mut found, mut left) = (BTreeSet::new(), MOST_PACKS);
        directory.list(&[PACKS.to_vec()], |piece| {
            if let Piece::Entry(name, _) = piece {
                left = left.checked_sub(1).ok_or_else(endless)?;
                if name.as_bytes().starts_with(b"tmp_") {
                    found.insert([PACKS, name.as_bytes()].join(&b'/'));
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Takes away what our own left.
    fn sweep_packs(&self, before: &BTreeSet<Vec<u8>>) {
        let (path, user) = (self.row.path.as_bytes(), self.request.user.as_deref());
        // It is the failure before that is told.
        let swept = self.unfinished_packs().and_then(|packs| {
            let ours: Vec<Vec<u8>> = packs.difference(before).cloned().collect();
            let mut directory = self.guest.open_directory(path, user, false, None)?;
            Ok(directory.remove(&ours)?)
        });
        drop(swept);
    }

    /// The guest's index: the commit's tree, with the guest's own stat data where the file is the commit's.
    pub(super) fn index(&mut self, scratch: &Scratch, manifest: &Manifest) -> Result<()> {
        let Some(base) = &self.row.spec.base else {
            return Ok(());
        };
        let listed = scratch
            .call("ls-tree")
            .args(["-r", "-z", "--full-tree", base])
            .output()?;
        let mut entries = BTreeMap::new();
        for (mode, oid, path) in crate::review::tree_entries(&listed) {
            let item = manifest.items.get(&path);
            let same = item.filter(|item| item.oid == oid && item.mode == mode);
            let entry = index::Entry {
                mode,
                oid,
                file: same.and_then(|item| item.guest),
                skip: item.is_some_and(|item| item.absent),
            };
            entries.insert(path, entry);
        }
        let bytes = index::encode(&manifest.format, &entries)
            .ok_or_else(|| WsError::Refused("git names objects in an unknown way".into()))?;
        place::made(self.directory, vec![Made::file(".git/index", bytes)])
    }
}
