//! What was reviewed as commits: a branch of the user's repository, or a bundle.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;

use banger_failpoint::point;

use super::{Work, beside};
use crate::error::{Result, WsError};
use crate::review::{edit, tree_map};
use crate::walk::shown;

impl Work<'_> {
    /// Returns the branch's commit, and whether it is new there.
    pub(super) fn branch(&self, branch: &str) -> Result<(String, bool)> {
        self.refuse_nothing()?;
        let top = &self.row.source;
        let user = |name: &str| self.git.of_user(top, name);
        self.git.check_branch(top, branch)?;
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

    pub(super) fn bundle(&self, file: &Path) -> Result<String> {
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
}
