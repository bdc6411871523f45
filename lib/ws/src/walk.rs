//! What the guest has: a walk over its tree by listings, one level at a time, in which ignored
//! directories are never entered. The guest lists and sends; what counts is decided here.

use std::collections::{BTreeMap, HashMap, HashSet};

use banger_tree::{Listed, Piece, TreeError};
use lib_guest::Directory;

use crate::error::{Result, WsError};
use crate::fetch::{Fetched, fetch};
use crate::manifest::{GITLINK, Manifest};
use crate::request::Limits;
use crate::rules::Rules;

/// A longer `.gitignore` is not read.
const LONGEST_IGNORE: u64 = 1 << 20;
/// Directories that are listed at once: what was listed is held until it was looked at.
const AT_ONCE: usize = 64;
/// Longest path that is taken, in bytes (PATH_MAX of Linux).
pub(crate) const LONGEST_PATH: usize = 4095;
/// So long paths may be on average, in bytes, when there are as many as may be: they are held all together.
pub(crate) const AVERAGE_PATH: u64 = 256;
/// Why a listing is left, as an error of the stream.
const TOO_MANY: &str = "entries";
const TOO_LONG: &str = "paths";

/// Files that the guest has and that count.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Regular files and symbolic links by path.
    pub(crate) files: BTreeMap<Vec<u8>, Listed>,
    /// What is not taken, and why.
    pub(crate) left_out: Vec<String>,
    /// Of these, names that lead out or into git.
    pub(crate) refused: Vec<String>,
    /// Directories that were entered, without the top.
    directories: BTreeMap<Vec<u8>, Listed>,
    /// Directories with something in them that is not taken.
    odd: HashSet<Vec<u8>>,
    /// What the `.gitignore` of a directory said.
    ignores: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Walk {
    fn has_directory_in(&self, path: &[u8]) -> bool {
        let below = below(path);
        let mut behind = self.directories.range(below.clone()..);
        behind
            .next()
            .is_some_and(|(next, _)| next.starts_with(&below))
    }

    fn files_in<'w>(&'w self, path: &[u8]) -> impl Iterator<Item = (&'w Vec<u8>, &'w Listed)> {
        let below = below(path);
        self.files
            .range(below.clone()..)
            .take_while(move |(file, _)| file.starts_with(&below))
    }
}

fn below(path: &[u8]) -> Vec<u8> {
    [path, b"/"].concat()
}

/// An earlier walk over the same tree, and the directories whose files were read since.
struct Before<'b> {
    walk: &'b Walk,
    read: &'b HashSet<Vec<u8>>,
}

impl Before<'_> {
    /// Nothing came into this directory or went from it since, the same of it counts, and whether its files were
    /// written to does not matter, for none was read.
    fn still_has(&self, level: &Level, now: &Walk) -> bool {
        let mut above = level.path.clone();
        while !above.is_empty() {
            above = parent(&above);
            if self.walk.ignores.get(&above) != now.ignores.get(&above) {
                return false;
            }
        }
        level.listed.is_some()
            && self.walk.directories.get(&level.path) == level.listed.as_ref()
            && !self.walk.odd.contains(&level.path)
            && !self.read.contains(&level.path)
            && !self.walk.has_directory_in(&level.path)
    }
}

/// How to walk.
pub(crate) struct Walker<'a> {
    /// What went in: never ignored.
    pub(crate) manifest: Option<&'a Manifest>,
    /// Further paths that are never ignored.
    pub(crate) tracked: &'a HashSet<Vec<u8>>,
    /// Ignored files that count all the same, by git's patterns.
    pub(crate) include_ignored: &'a [String],
    /// The most that is taken.
    pub(crate) limits: Limits,
}

struct State<'a> {
    walk: Walk,
    rules: Rules,
    manifest: Option<&'a Manifest>,
    tracked: &'a HashSet<Vec<u8>>,
    tracked_directories: HashSet<Vec<u8>>,
    submodules: HashSet<Vec<u8>>,
    /// Submodules of which nothing went in: empty directories.
    empty_submodules: HashSet<Vec<u8>>,
    entries: u64,
    /// Bytes of the paths of all entries.
    paths: u64,
}

/// A directory to list.
struct Level {
    path: Vec<u8>,
    /// As the one above lists it; the top has none.
    listed: Option<Listed>,
    /// It is ignored: only what is tracked, or was asked for, counts in it.
    ignored: bool,
}

impl Walker<'_> {
    /// Walks.
    ///
    /// # Errors
    /// [`WsError::Limit`], [`WsError::Guest`].
    pub(crate) fn walk(&self, directory: &mut Directory<'_>) -> Result<Walk> {
        self.walk_since(directory, None)
    }

    /// Walks again, after files in the directories `read` were read: says whether they are as they were, and whether
    /// files came or went anywhere. Directories of which the file system says that neither happened are not listed.
    ///
    /// # Errors
    /// As [`Walker::walk`].
    pub(crate) fn walk_again(
        &self,
        directory: &mut Directory<'_>,
        walk: &Walk,
        read: &HashSet<Vec<u8>>,
    ) -> Result<Walk> {
        self.walk_since(directory, Some(Before { walk, read }))
    }

    fn walk_since(
        &self,
        directory: &mut Directory<'_>,
        before: Option<Before<'_>>,
    ) -> Result<Walk> {
        let mut state = self.state();
        let mut levels = vec![Level {
            path: Vec::new(),
            listed: None,
            ignored: false,
        }];
        while !levels.is_empty() {
            if let Some(before) = &before {
                levels.retain(|level| {
                    let same = before.still_has(level, &state.walk);
                    if same {
                        let files = before.walk.files_in(&level.path);
                        let files = files.map(|(path, listed)| (path.clone(), *listed));
                        state.walk.files.extend(files);
                    }
                    !same
                });
            }
            let mut next = Vec::new();
            for levels in levels.chunks(AT_ONCE) {
                let listed = self.list(directory, levels, &mut state)?;
                let ignores: Vec<Vec<u8>> = levels
                    .iter()
                    .zip(&listed)
                    .filter(|(level, entries)| {
                        let file = entries.get(&b".gitignore"[..]);
                        let file =
                            file.filter(|file| file.is_file() && file.size <= LONGEST_IGNORE);
                        !level.ignored && file.is_some()
                    })
                    .map(|(level, _)| join(&level.path, b".gitignore"))
                    .collect();
                let texts = read_small(directory, &ignores, LONGEST_IGNORE)?;
                for (path, text) in texts {
                    state.rules.add(parent(&path), &text)?;
                    state.walk.ignores.insert(parent(&path), text);
                }
                for (level, entries) in levels.iter().zip(listed) {
                    state.directory(level, entries, &mut next);
                }
            }
            levels = next;
        }
        Ok(state.walk)
    }

    fn state(&self) -> State<'_> {
        let mut submodules = HashSet::new();
        let mut empty_submodules = HashSet::new();
        let mut tracked: Vec<&Vec<u8>> = self.tracked.iter().collect();
        if let Some(manifest) = self.manifest {
            let items = manifest.items.iter();
            tracked.extend(items.filter(|(_, item)| !item.absent).map(|(path, _)| path));
            let inner = manifest.roots.iter().skip(1);
            submodules.extend(inner.map(|root| root.prefix[..root.prefix.len() - 1].to_owned()));
            let links = manifest.items.iter();
            let links =
                links.filter(|(path, item)| item.mode == GITLINK && !submodules.contains(*path));
            empty_submodules.extend(links.map(|(path, _)| path.clone()));
        }
        let mut tracked_directories = HashSet::new();
        for path in tracked {
            let mut path = &path[..];
            while let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
                path = &path[..slash];
                if !tracked_directories.insert(path.to_owned()) {
                    break;
                }
            }
        }
        let excludes = self.manifest.map(|manifest| &manifest.excludes[..]);
        State {
            walk: Walk::default(),
            rules: Rules::new(excludes.unwrap_or_default(), self.include_ignored),
            manifest: self.manifest,
            tracked: self.tracked,
            tracked_directories,
            submodules,
            empty_submodules,
            entries: 0,
            paths: 0,
        }
    }

    /// What is in each of the directories.
    fn list(
        &self,
        directory: &mut Directory<'_>,
        levels: &[Level],
        state: &mut State<'_>,
    ) -> Result<Vec<BTreeMap<Vec<u8>, Listed>>> {
        let paths: Vec<Vec<u8>> = levels.iter().map(|level| level.path.clone()).collect();
        let mut all: Vec<BTreeMap<Vec<u8>, Listed>> = Vec::new();
        let mut missing = Vec::new();
        let listed = directory.list(&paths, |piece| {
            match piece {
                Piece::Directory => all.push(BTreeMap::new()),
                Piece::Missing => missing.push(all.len().saturating_sub(1)),
                Piece::Entry(name, listed) => {
                    let above = levels.get(all.len().saturating_sub(1));
                    let above = above.map_or(0, |level| level.path.len() + 1);
                    state.entries += 1;
                    state.paths += (above + name.as_bytes().len()) as u64;
                    if state.entries > self.limits.entries {
                        return Err(TreeError::Refused(TOO_MANY.into()));
                    }
                    if state.paths > self.limits.entries.saturating_mul(AVERAGE_PATH) {
                        return Err(TreeError::Refused(TOO_LONG.into()));
                    }
                    let last = all.last_mut();
                    let twice = last.is_some_and(|entries| {
                        entries.insert(name.as_bytes().to_owned(), listed).is_some()
                    });
                    if twice {
                        return Err(TreeError::Protocol("a name that is there twice"));
                    }
                }
            }
            Ok(())
        });
        match listed {
            Err(lib_guest::Error::Tree(TreeError::Refused(words))) if words == TOO_MANY => {
                return Err(WsError::Limit {
                    what: format!("more than {} files and directories", self.limits.entries),
                    hint: "add what is generated to .gitignore",
                });
            }
            Err(lib_guest::Error::Tree(TreeError::Refused(words))) if words == TOO_LONG => {
                return Err(WsError::Limit {
                    what: format!(
                        "more than {} bytes of paths",
                        self.limits.entries.saturating_mul(AVERAGE_PATH)
                    ),
                    hint: "add what is generated to .gitignore",
                });
            }
            listed => listed?,
        }
        all.resize_with(levels.len(), BTreeMap::new);
        for index in missing {
            let Some(level) = levels.get(index) else {
                continue;
            };
            let shown = shown(&level.path);
            // What went in does not look deleted because it cannot be seen.
            if level.path.is_empty() || state.tracked_directories.contains(&level.path) {
                return Err(WsError::Refused(format!(
                    "{shown}/ in the VM cannot be read"
                )));
            }
            if !level.ignored {
                state.walk.odd.insert(level.path.clone());
                state
                    .walk
                    .left_out
                    .push(format!("{shown}: it cannot be read"));
            }
        }
        Ok(all)
    }
}

impl State<'_> {
    fn is_tracked(&self, path: &[u8]) -> bool {
        let item = self.manifest.and_then(|manifest| manifest.items.get(path));
        item.is_some_and(|item| !item.absent) || self.tracked.contains(path)
    }

    fn directory(
        &mut self,
        level: &Level,
        entries: BTreeMap<Vec<u8>, Listed>,
        next: &mut Vec<Level>,
    ) {
        let top = level.path.is_empty();
        // What went in there does not look deleted because somebody made a repository of it.
        let apart = !top
            && entries.contains_key(&b".git"[..])
            && !self.submodules.contains(&level.path)
            && !self.tracked_directories.contains(&level.path);
        if apart {
            if !level.ignored {
                let shown = shown(&level.path);
                self.walk.odd.insert(level.path.clone());
                self.walk
                    .left_out
                    .push(format!("{shown}/: a repository of its own"));
            }
            return;
        }
        if self.empty_submodules.contains(&level.path) && !entries.is_empty() {
            // To the repository around it, there is nothing but a commit's name.
            let shown = shown(&level.path);
            self.walk.odd.insert(level.path.clone());
            self.walk
                .left_out
                .push(format!("{shown}/: a submodule of which nothing was copied"));
            return;
        }
        for (name, listed) in entries {
            if name == b".git" {
                // The workspace's own, or a submodule's: nothing of it is ever taken.
                continue;
            }
            let path = join(&level.path, &name);
            let ignored = level.ignored || self.rules.is_ignored(&path, listed.is_directory());
            if is_dot_git(&name) || path.len() > LONGEST_PATH {
                if !ignored {
                    let shown = shown(&path);
                    self.walk.odd.insert(level.path.clone());
                    self.walk
                        .refused
                        .push(format!("{shown}: a name that git could take for its own"));
                }
                continue;
            }
            if listed.is_directory() {
                let enter = !ignored
                    || self.rules.include_any()
                    || self.tracked_directories.contains(&path);
                if enter {
                    self.walk.directories.insert(path.clone(), listed);
                    let listed = Some(listed);
                    next.push(Level {
                        path,
                        listed,
                        ignored,
                    });
                }
            } else if ignored && !self.is_tracked(&path) && !self.rules.is_included(&path) {
            } else if listed.is_file() || listed.is_symlink() {
                self.walk.files.insert(path, listed);
            } else {
                let shown = shown(&path);
                self.walk.odd.insert(level.path.clone());
                self.walk
                    .left_out
                    .push(format!("{shown}: neither a file, a link nor a directory"));
            }
        }
    }
}

/// For people.
pub(crate) fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}

/// The directory that a path is in.
pub(crate) fn parent(path: &[u8]) -> Vec<u8> {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    path[..slash.unwrap_or(0)].to_vec()
}

/// A path in a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        [] => name.to_owned(),
        _ => [directory, name].join(&b'/'),
    }
}

/// Names that some file system, or git for one, takes for `.git`: by case, by NTFS's short names and
/// streams, by HFS+'s ignored characters (git, path.c, is_ntfs_dotgit; utf8.c, is_hfs_dotgit).
pub(crate) fn is_dot_git(name: &[u8]) -> bool {
    let text = String::from_utf8_lossy(name);
    let visible: String = text
        .chars()
        .filter(|c| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}'))
        .collect();
    let visible = visible.to_ascii_lowercase();
    let stem = visible.split([':', '\\']).next().unwrap_or_default();
    let stem = stem.trim_end_matches([' ', '.']);
    stem == ".git" || stem == "git~1"
}

/// Reads files that are small; what is not there, or larger, is left out.
pub(crate) fn read_small(
    directory: &mut Directory<'_>,
    paths: &[Vec<u8>],
    most: u64,
) -> Result<HashMap<Vec<u8>, Vec<u8>>> {
    let mut found = HashMap::new();
    let mut paths = paths.to_vec();
    paths.sort_unstable();
    for chunk in banger_tree::session::chunks(&paths) {
        directory.with(|client| {
            let all = most.saturating_mul(chunk.len() as u64);
            fetch(client, chunk, all, |path, what, content| {
                let mut text = Vec::new();
                content.each(&mut |bytes| {
                    if (text.len() + bytes.len()) as u64 <= most {
                        text.extend_from_slice(bytes);
                    }
                    Ok(())
                })?;
                if let Fetched::File { size, .. } = what
                    && text.len() as u64 == size
                {
                    found.insert(path.to_owned(), text);
                }
                Ok(())
            })
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_file_system_takes_for_git_are_known() {
        for name in [
            ".git",
            ".GIT",
            ".Git",
            "git~1",
            "GIT~1",
            ".git ",
            ".git.",
            ".git...",
            ".git::$DATA",
            ".g\u{200c}it",
            "\u{feff}.git",
            ".git\\x",
        ] {
            assert!(is_dot_git(name.as_bytes()), "{name}");
        }
        for name in [
            ".gitignore",
            "git",
            ".github",
            "git~2",
            "a.git",
            ".gi",
            "\u{200c}",
        ] {
            assert!(!is_dot_git(name.as_bytes()), "{name}");
        }
    }
}
