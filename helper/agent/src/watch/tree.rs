//! A directory as it was last seen, and how it differs now.
//!
//! A file is known by kind, size, time and permissions; a directory counts only for what is in it, as with
//! git. Whatever is called `.git` is left out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_wire::watch::{Change, Watch, What};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::dirty::Dirty;

const LEFT_OUT: &[u8] = b".git";
/// Where the kernel says how many directories a user may watch.
const MOST_WATCHES: &str = "/proc/sys/fs/inotify/max_user_watches";

/// The watched directory.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    inotify: Inotify,
    /// By path relative to the root, whose own is empty.
    directories: BTreeMap<Vec<u8>, Directory>,
    by_watch: HashMap<WatchDescriptor, Vec<u8>>,
    skip: HashSet<Vec<u8>>,
    entries: usize,
    limit: usize,
}

#[derive(Debug)]
struct Directory {
    watch: WatchDescriptor,
    entries: BTreeMap<Vec<u8>, Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// The type bits of `st_mode`.
    kind: u32,
    mode: u32,
    size: u64,
    mtime: (i64, i64),
    device: u64,
    inode: u64,
}

/// Files before and after.
#[derive(Debug, Default)]
struct Difference {
    removed: Vec<(Vec<u8>, Seen)>,
    added: Vec<(Vec<u8>, Seen)>,
    changed: Vec<(Vec<u8>, Seen, Seen)>,
}

impl Seen {
    fn look(path: &Path) -> Option<Seen> {
        let found = path.symlink_metadata().ok()?;
        Some(Seen {
            kind: found.mode() & nix::libc::S_IFMT,
            mode: found.mode() & 0o7777,
            size: found.size(),
            mtime: (found.mtime(), found.mtime_nsec()),
            device: found.dev(),
            inode: found.ino(),
        })
    }

    fn is_directory(&self) -> bool {
        self.kind == nix::libc::S_IFDIR
    }

    fn same_directory(&self, other: Option<&Seen>) -> bool {
        let identity = |seen: &Seen| (seen.kind, seen.device, seen.inode);
        self.is_directory() && other.is_some_and(|other| identity(self) == identity(other))
    }

    /// Freed inodes are used again at once, so the number alone says nothing.
    fn identity(&self) -> (u32, u64, u64, u64, (i64, i64)) {
        (self.kind, self.device, self.inode, self.size, self.mtime)
    }
}

impl Tree {
    /// Watches the directory and all below it, and sees what is there.
    ///
    /// # Errors
    /// For people: no such directory; more than may be watched.
    pub(super) fn new(what: &Watch) -> Result<Tree, String> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|errno| format!("the guest's kernel cannot watch directories: {errno}"))?;
        let root = PathBuf::from(OsStr::from_bytes(&what.path));
        match root.metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(format!("not a directory in the guest: {}", root.display())),
            Err(error) => return Err(cannot_watch(&root, &error.to_string())),
        }
        let mut tree = Tree {
            root,
            inotify,
            directories: BTreeMap::new(),
            by_watch: HashMap::new(),
            skip: what.skip.iter().cloned().collect(),
            entries: 0,
            limit: what.entries as usize,
        };
        tree.enter(Vec::new(), &mut Vec::new())?;
        if tree.directories.is_empty() {
            return Err(cannot_watch(&tree.root, "permission denied"));
        }
        Ok(tree)
    }

    /// Readable when there are events.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// How many are watched.
    pub(super) fn directories(&self) -> usize {
        self.directories.len()
    }

    /// Takes what the kernel has told by now.
    ///
    /// # Errors
    /// The directory itself is gone.
    pub(super) fn take_events(&self, dirty: &mut Dirty) -> Result<(), String> {
        let root = self.directories.get(&b""[..]).map(|root| root.watch);
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(format!("the guest's kernel stopped telling: {errno}")),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    dirty.mark_everything();
                    continue;
                }
                let gone = AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_UNMOUNT;
                if Some(event.wd) == root && event.mask.intersects(gone) {
                    return Err(format!("{} is gone in the guest", self.root.display()));
                }
                let (Some(directory), Some(name)) = (self.by_watch.get(&event.wd), event.name)
                else {
                    continue;
                };
                if !self.is_left_out(directory, name.as_bytes()) {
                    dirty.mark(directory, name.as_bytes());
                }
            }
        }
    }

    /// Looks at what may differ, and says what does; from then on that is how it was.
    ///
    /// # Errors
    /// More than may be watched.
    pub(super) fn changes(&mut self, dirty: &Dirty) -> Result<Vec<Change>, String> {
        let mut difference = Difference::default();
        let mut new = Vec::new();
        if dirty.everything() {
            let all: Vec<Vec<u8>> = self.directories.keys().cloned().collect();
            for directory in all {
                let Some(known) = self.directories.get(&directory) else {
                    continue;
                };
                let mut names: Vec<Vec<u8>> = known.entries.keys().cloned().collect();
                names.extend(self.list(&directory));
                names.sort_unstable();
                names.dedup();
                for name in names {
                    self.look(&directory, &name, &mut difference, &mut new);
                }
            }
        } else {
            for (directory, names) in dirty.names() {
                for name in names {
                    self.look(directory, name, &mut difference, &mut new);
                }
            }
        }
        // Now that what is gone is no longer watched: a directory that moved has the watch it had.
        for path in new {
            self.enter(path, &mut difference.added)?;
        }
        self.within_limit()?;
        Ok(difference.told())
    }

    /// Compares one entry and takes its new state over; new directories are entered later.
    fn look(
        &mut self,
        directory: &[u8],
        name: &[u8],
        difference: &mut Difference,
        new: &mut Vec<Vec<u8>>,
    ) {
        let path = joined(directory, name);
        let now = Seen::look(&self.at(&path));
        let Some(known) = self.directories.get_mut(directory) else {
            // It went with a directory above it.
            return;
        };
        let before = known.entries.get(name).copied();
        match now {
            Some(now) => known.entries.insert(name.to_vec(), now),
            None => known.entries.remove(name),
        };
        self.entries += usize::from(now.is_some());
        self.entries -= usize::from(before.is_some());
        match (before, now) {
            (Some(before), now) if before.same_directory(now.as_ref()) => {}
            (Some(before), Some(now)) if !before.is_directory() && !now.is_directory() => {
                difference.changed.push((path, before, now));
            }
            (before, now) => {
                match before {
                    Some(before) if before.is_directory() => self.leave(&path, difference),
                    Some(before) => difference.removed.push((path.clone(), before)),
                    None => {}
                }
                match now {
                    Some(now) if now.is_directory() => new.push(path),
                    Some(now) => difference.added.push((path, now)),
                    None => {}
                }
            }
        }
    }

    /// Forgets a directory and all below it.
    fn leave(&mut self, path: &[u8], difference: &mut Difference) {
        let below = joined(path, b"");
        let mut end = below.clone();
        // The byte behind `/`.
        *end.last_mut().expect("it ends in a slash") = b'/' + 1;
        let mut gone: Vec<Vec<u8>> = vec![path.to_vec()];
        gone.extend(
            self.directories
                .range(below..end)
                .map(|(path, _)| path.clone()),
        );
        for path in gone {
            let Some(directory) = self.directories.remove(&path) else {
                continue;
            };
            self.entries -= directory.entries.len();
            if self.by_watch.get(&directory.watch) == Some(&path) {
                self.by_watch.remove(&directory.watch);
                // It is gone already when the directory is.
                let _ = self.inotify.rm_watch(directory.watch);
            }
            let files = directory.entries.into_iter();
            let files = files.filter(|(_, seen)| !seen.is_directory());
            let files = files.map(|(name, seen)| (joined(&path, &name), seen));
            difference.removed.extend(files);
        }
    }

    /// Watches a directory and all below it; `added` gets the files.
    fn enter(&mut self, path: Vec<u8>, added: &mut Vec<(Vec<u8>, Seen)>) -> Result<(), String> {
        let flags = AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let mut waiting = vec![path];
        while let Some(path) = waiting.pop() {
            // Before the look, so that nothing falls between the two.
            let watch = match self.inotify.add_watch(&self.at(&path), flags) {
                Ok(watch) => watch,
                Err(Errno::ENOSPC) => return Err(self.no_watch_left()),
                // Gone again, or not ours to see.
                Err(_) => continue,
            };
            let mut entries = BTreeMap::new();
            for name in self.list(&path) {
                let below = joined(&path, &name);
                let Some(seen) = Seen::look(&self.at(&below)) else {
                    continue;
                };
                entries.insert(name, seen);
                match seen.is_directory() {
                    true => waiting.push(below),
                    false => added.push((below, seen)),
                }
            }
            self.entries += entries.len();
            self.by_watch.insert(watch, path.clone());
            let directory = Directory { watch, entries };
            if let Some(before) = self.directories.insert(path, directory) {
                self.entries -= before.entries.len();
            }
            self.within_limit()?;
        }
        Ok(())
    }

    /// Names in a directory; none when it cannot be read.
    fn list(&self, directory: &[u8]) -> Vec<Vec<u8>> {
        let listing = std::fs::read_dir(self.at(directory)).into_iter().flatten();
        let names = listing.flatten().map(|entry| entry.file_name().into_vec());
        names
            .filter(|name| !self.is_left_out(directory, name))
            // One more than may be is enough to say so.
            .take(self.limit + 1)
            .collect()
    }

    fn is_left_out(&self, directory: &[u8], name: &[u8]) -> bool {
        name == LEFT_OUT || (!self.skip.is_empty() && self.skip.contains(&joined(directory, name)))
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        match path {
            // A link is followed here, and never below.
            b"" => self.root.join("."),
            path => self.root.join(OsStr::from_bytes(path)),
        }
    }

    fn within_limit(&self) -> Result<(), String> {
        match self.entries > self.limit {
            true => Err(format!(
                "{} has more than {} files and directories, the most that are watched",
                self.root.display(),
                self.limit
            )),
            false => Ok(()),
        }
    }

    fn no_watch_left(&self) -> String {
        let limit = std::fs::read_to_string(MOST_WATCHES).unwrap_or_default();
        let limit = limit.trim();
        format!(
            "the guest's kernel watches no more than {limit} directories for a user, and {} has more; \
             raise fs.inotify.max_user_watches in the guest (sysctl -w, as root)",
            self.root.display()
        )
    }
}

impl Difference {
    /// As changes: who is gone here and there again was renamed.
    fn told(self) -> Vec<Change> {
        let mut gone: HashMap<_, _> = self
            .removed
            .iter()
            .enumerate()
            .map(|(index, (_, seen))| (seen.identity(), index))
            .collect();
        let mut moved = HashSet::new();
        let mut changes: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
        for (path, now) in self.added {
            let before = gone.remove(&now.identity());
            let change = match before {
                Some(index) => {
                    moved.insert(index);
                    let (from, before) = &self.removed[index];
                    Change {
                        from: Some(from.clone()),
                        ..change(&path, What::Renamed, Some(before), Some(&now))
                    }
                }
                None => change(&path, What::Added, None, Some(&now)),
            };
            changes.insert(path, change);
        }
        for (index, (path, before)) in self.removed.into_iter().enumerate() {
            if moved.contains(&index) {
                continue;
            }
            // A directory that became a file, or the other way round, is both; the new one counts.
            let removed = change(&path, What::Removed, Some(&before), None);
            changes.entry(path).or_insert(removed);
        }
        for (path, before, now) in self.changed {
            let what = match () {
                () if before.kind != now.kind => What::Type,
                () if (before.size, before.mtime) != (now.size, now.mtime) => What::Modified,
                () if before.mode != now.mode => What::Mode,
                () => continue,
            };
            let change = change(&path, what, Some(&before), Some(&now));
            changes.insert(path, change);
        }
        changes.into_values().collect()
    }
}

fn change(path: &[u8], what: What, before: Option<&Seen>, now: Option<&Seen>) -> Change {
    let mode = before.zip(now).map(|(before, now)| (before.mode, now.mode));
    let size = |seen: Option<&Seen>| seen.map_or(0, |seen| seen.size);
    Change {
        path: path.to_vec(),
        what,
        from: None,
        mode: mode.filter(|(before, now)| before != now),
        size: (size(before), size(now)),
    }
}

fn cannot_watch(root: &Path, why: &str) -> String {
    format!("cannot watch {} in the guest: {why}", root.display())
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, name].join(&b'/'),
    }
}

#[cfg(test)]
mod tests;
