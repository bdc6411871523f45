//! What of a repository goes into the guest, as git objects in a scratch repository.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use crate::error::Result;
use crate::git::{Call, Git, joined};
use crate::manifest::{GITLINK, Item, Kept, Manifest, Root, SYMLINK};
use crate::repository::Repository;

/// Larger files are not looked into for their line ends.
const LONGEST_TEXT: u64 = 16 << 20;
/// Submodules in submodules.
const DEEPEST: usize = 8;

/// Where the content of what goes in comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Files of the working tree.
    Worktree,
    /// The objects of a commit.
    Objects,
}

/// What goes in.
pub(crate) struct Scan {
    /// Without the guest's side.
    pub(crate) manifest: Manifest,
    /// Where the content is.
    pub(crate) content: Content,
    /// How files of the working tree were when they were looked at.
    pub(crate) seen: BTreeMap<Vec<u8>, Seen>,
    /// What does not go, and why.
    pub(crate) left_out: Vec<String>,
}

/// A file of the host at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    size: u64,
    mtime: (i64, i64),
    ino: u64,
    mode: u32,
}

impl Seen {
    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Seconds since 1970 and nanoseconds.
    pub(crate) fn mtime(&self) -> (i64, u32) {
        (self.mtime.0, u32::try_from(self.mtime.1).unwrap_or(0))
    }

    /// What is there now, if anything.
    pub(crate) fn look(path: &Path) -> Option<Seen> {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some(Seen {
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ino: metadata.ino(),
            mode: metadata.mode(),
        })
    }
}

/// Finds what goes in, and makes its trees in `scratch`.
///
/// # Errors
/// When git fails.
pub(crate) fn scan(
    git: &Git,
    repository: &Repository,
    scratch: &Path,
    from: Option<&str>,
    include_ignored: &[String],
) -> Result<Scan> {
    let mut scan = Scan {
        manifest: Manifest {
            format: repository.format.clone(),
            roots: Vec::new(),
            git: None,
            excludes: repository.excludes(git)?,
            items: BTreeMap::new(),
        },
        content: match from {
            Some(_) => Content::Objects,
            None => Content::Worktree,
        },
        seen: BTreeMap::new(),
        left_out: Vec::new(),
    };
    let scanner = Scanner {
        git,
        scratch,
        include_ignored,
    };
    match from {
        Some(commit) => scanner.commit(repository, commit, &mut scan)?,
        None => scanner.worktree(repository, b"", &mut scan, 0)?,
    }
    Ok(scan)
}

struct Scanner<'a> {
    git: &'a Git,
    scratch: &'a Path,
    include_ignored: &'a [String],
}

impl Scanner<'_> {
    /// git in the user's repository, whose new objects go into the scratch repository.
    fn call(&self, repository: &Repository, name: &str) -> Call {
        self.git
            .of_user(&repository.top, name)
            .env("GIT_OBJECT_DIRECTORY", self.scratch.join("objects"))
            .env(
                "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                joined(std::slice::from_ref(&repository.objects)),
            )
            .env("GIT_INDEX_FILE", self.scratch.join("banger-index"))
    }

    fn commit(&self, repository: &Repository, commit: &str, scan: &mut Scan) -> Result<()> {
        let index = self.scratch.join("banger-index");
        let _ = fs::remove_file(&index);
        self.call(repository, "read-tree").arg(commit).output()?;
        let tree = self.tree_of(repository, commit)?;
        let listed = self
            .call(repository, "ls-files")
            .args(["-s", "-z"])
            .output()?;
        for (_, mode, oid, path) in staged(&listed) {
            scan.manifest.items.insert(path, item(mode, oid, 0));
        }
        scan.manifest.roots.push(Root {
            prefix: Vec::new(),
            objects: repository.objects.clone(),
            tree: tree.clone(),
            base: Some(commit.to_owned()),
            base_tree: Some(tree),
        });
        Ok(())
    }

    fn tree_of(&self, repository: &Repository, commit: &str) -> Result<String> {
        self.git
            .of_user(&repository.top, "rev-parse")
            .args(["--verify", &format!("{commit}^{{tree}}")])
            .line()
    }

    fn worktree(
        &self,
        repository: &Repository,
        prefix: &[u8],
        scan: &mut Scan,
        depth: usize,
    ) -> Result<()> {
        let top = &repository.top;
        let ask =
            |name: &str, arguments: &[&str]| self.git.of_user(top, name).args(arguments).output();
        let listed = ask("ls-files", &["-s", "-t", "-z"])?;
        let mut absent = HashSet::new();
        let mut links = Vec::new();
        let mut dirty: HashSet<Vec<u8>> = HashSet::new();
        let mut gone: HashSet<Vec<u8>> = HashSet::new();
        let mut index_info = Vec::new();
        let look = |path: &[u8]| Seen::look(&top.join(os(path)));
        // Before git compares them, so that a change at any time from now on is seen later.
        let mut seen: BTreeMap<Vec<u8>, Seen> = BTreeMap::new();
        for (.., path) in staged(&listed) {
            seen.extend(look(&path).map(|seen| (path, seen)));
        }
        for (letter, path) in named(&ask("diff-files", &["--name-status", "-z"])?) {
            match letter {
                b'D' => gone.insert(path),
                _ => dirty.insert(path),
            };
        }
        for (tag, mode, oid, path) in staged(&listed) {
            match (tag, mode) {
                (b'M', _) => {
                    // With conflicts: what is in the working tree goes.
                    if seen.contains_key(&path) {
                        gone.remove(&path);
                        dirty.insert(path);
                    }
                    continue;
                }
                (b'S', _) => {
                    gone.remove(&path);
                    dirty.remove(&path);
                    absent.insert(path.clone());
                }
                (_, GITLINK) => {
                    gone.remove(&path);
                    dirty.remove(&path);
                    links.push(path.clone());
                }
                _ if gone.contains(&path) => continue,
                _ => {}
            }
            index_info.extend(format!("{mode:o} {oid} 0\t").into_bytes());
            index_info.extend(&path);
            index_info.push(0);
        }
        let mut others = ask("ls-files", &["-o", "--exclude-standard", "-z"])?;
        if !self.include_ignored.is_empty() {
            let patterns = self
                .include_ignored
                .iter()
                .map(|glob| format!("--exclude={glob}"));
            let call = self.git.of_user(top, "ls-files");
            others.extend(call.args(["-o", "-i", "-z"]).args(patterns).output()?);
        }
        for path in others
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty())
        {
            if path.ends_with(b"/") {
                let shown = String::from_utf8_lossy(path);
                scan.left_out
                    .push(format!("{shown}: a repository of its own"));
                continue;
            }
            dirty.insert(path.to_owned());
        }

        let index = self.scratch.join("banger-index");
        let _ = fs::remove_file(&index);
        let update = |arguments: &[&str], input: &[u8]| {
            let call = self.call(repository, "update-index");
            call.args(["--add", "--replace"])
                .args(arguments)
                .output_of(input)
        };
        update(&["-z", "--index-info"], &index_info)?;
        let mut paths: Vec<&Vec<u8>> = dirty.iter().collect();
        paths.sort_unstable();
        let mut input = Vec::new();
        for path in paths {
            input.extend(path);
            input.push(0);
        }
        let root = scan.manifest.roots.len();
        for path in &dirty {
            if !seen.contains_key(path) {
                seen.extend(look(path).map(|seen| (path.clone(), seen)));
            }
        }
        update(&["--remove", "-z", "--stdin"], &input)?;
        let tree = self
            .call(repository, "write-tree")
            .arg("--missing-ok")
            .line()?;
        let listed = self
            .call(repository, "ls-files")
            .args(["-s", "-z"])
            .output()?;
        let mut items: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
        for (_, mode, oid, path) in staged(&listed) {
            let mut item = item(mode, oid, root);
            item.absent = absent.contains(&path);
            items.insert(path, item);
        }
        self.conversions(repository, &mut items, &seen)?;
        let base_tree = match &repository.head {
            Some(head) => Some(self.tree_of(repository, head)?),
            None => None,
        };
        scan.manifest.roots.push(Root {
            prefix: prefix.to_owned(),
            objects: repository.objects.clone(),
            tree,
            base: repository.head.clone(),
            base_tree,
        });
        let whole = |path: Vec<u8>| [prefix, &path].concat();
        scan.manifest
            .items
            .extend(items.into_iter().map(|(path, item)| (whole(path), item)));
        scan.seen
            .extend(seen.into_iter().map(|(path, seen)| (whole(path), seen)));
        for link in links {
            let directory = top.join(os(&link));
            // Not initialised: an empty directory.
            if fs::symlink_metadata(directory.join(".git")).is_err() {
                continue;
            }
            let shown = String::from_utf8_lossy(&link).into_owned();
            match Repository::find(self.git, &directory) {
                Ok(inner) if depth < DEEPEST && inner.format == repository.format => {
                    let prefix = [prefix, &link, b"/"].concat();
                    self.worktree(&inner, &prefix, scan, depth + 1)?;
                }
                Ok(_) => scan
                    .left_out
                    .push(format!("{shown}: too deep, or of another format")),
                Err(error) => scan.left_out.push(format!("{shown}: {error}")),
            }
        }
        Ok(())
    }

    /// Finds which files the repository keeps otherwise than the working tree has them.
    fn conversions(
        &self,
        repository: &Repository,
        items: &mut BTreeMap<Vec<u8>, Item>,
        seen: &BTreeMap<Vec<u8>, Seen>,
    ) -> Result<()> {
        let files: Vec<Vec<u8>> = items
            .iter()
            .filter(|(_, item)| !item.absent && !matches!(item.mode, GITLINK | SYMLINK))
            .map(|(path, _)| path.clone())
            .collect();
        let oid = |items: &BTreeMap<Vec<u8>, Item>, path: &Vec<u8>| {
            let oid = items.get(path).map(|item| item.oid.clone());
            oid.unwrap_or_default()
        };
        let mut input = String::new();
        for path in &files {
            input.push_str(&oid(items, path));
            input.push('\n');
        }
        let sizes = self
            .call(repository, "cat-file")
            .env("GIT_NO_LAZY_FETCH", "1")
            .arg("--batch-check=%(objectsize)")
            .output_of(input.as_bytes())?;
        let sizes = sizes.split(|byte| *byte == b'\n');
        let mut other: Vec<(Vec<u8>, u64)> = Vec::new();
        for (path, size) in files.into_iter().zip(sizes) {
            let size = std::str::from_utf8(size)
                .ok()
                .and_then(|size| size.parse().ok());
            if let (Some(size), Some(seen)) = (size, seen.get(&path))
                && seen.size != size
            {
                other.push((path, size));
            }
        }
        if other.is_empty() {
            return Ok(());
        }
        let mut running = self
            .call(repository, "cat-file")
            .arg("--batch")
            .spawn(Stdio::piped())?;
        let (Some(mut stdin), Some(stdout)) = (running.stdin.take(), running.child.stdout.take())
        else {
            return running.finish();
        };
        let mut stdout = BufReader::new(stdout);
        for (path, size) in other {
            let file = repository.top.join(os(&path));
            let mut kept = Kept::Filtered;
            if size <= LONGEST_TEXT {
                let object = oid(items, &path);
                let blob = batch(&mut stdin, &mut stdout, &object).map_err(running.failed())?;
                let long = seen
                    .get(&path)
                    .is_none_or(|seen| seen.size > 2 * LONGEST_TEXT);
                let have = if long { None } else { fs::read(&file).ok() };
                if have.is_some_and(|have| without_cr(&have) == blob) {
                    kept = Kept::Crlf;
                }
            }
            if let Some(item) = items.get_mut(&path) {
                item.kept = kept;
            }
        }
        drop(stdin);
        running.finish()
    }
}

/// Asks `cat-file --batch` for one object.
pub(crate) fn batch(
    stdin: &mut impl Write,
    stdout: &mut impl BufRead,
    oid: &str,
) -> std::io::Result<Vec<u8>> {
    let size = batch_size(stdin, stdout, oid)?;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    stdout.read_exact(&mut bytes)?;
    stdout.read_exact(&mut [0])?;
    Ok(bytes)
}

/// Asks `cat-file --batch` for one object, whose content of this length, and a newline, is then to be read.
pub(crate) fn batch_size(
    stdin: &mut impl Write,
    stdout: &mut impl BufRead,
    oid: &str,
) -> std::io::Result<u64> {
    stdin.write_all(format!("{oid}\n").as_bytes())?;
    stdin.flush()?;
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let size = line
        .trim_end()
        .rsplit(' ')
        .next()
        .and_then(|size| size.parse().ok());
    size.ok_or_else(|| std::io::Error::other(format!("no object {oid}: {}", line.trim_end())))
}

/// CRLF as LF.
pub(crate) fn without_cr(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for (index, byte) in bytes.iter().enumerate() {
        if *byte != b'\r' || bytes.get(index + 1) != Some(&b'\n') {
            out.push(*byte);
        }
    }
    out
}

fn item(mode: u32, oid: String, root: usize) -> Item {
    Item {
        mode,
        oid,
        raw: None,
        root,
        kept: Kept::AsIs,
        absent: false,
        guest: None,
    }
}

/// A path in the repository as one of the system.
pub(crate) fn os(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

/// `ls-files -s -z`, with or without `-t`: tag, mode, object, path. Stages other than 0 have the tag `M`.
fn staged(output: &[u8]) -> Vec<(u8, u32, String, Vec<u8>)> {
    let records = output.split(|byte| *byte == 0);
    records
        .filter_map(|record| {
            let tab = record.iter().position(|byte| *byte == b'\t')?;
            let text = std::str::from_utf8(&record[..tab]).ok()?;
            let mut words: Vec<&str> = text.split(' ').collect();
            let stage = words.pop()?;
            let oid = words.pop()?;
            let mode = u32::from_str_radix(words.pop()?, 8).ok()?;
            let tag = words
                .pop()
                .and_then(|tag| tag.bytes().next())
                .unwrap_or(b'H');
            let tag = if stage == "0" { tag } else { b'M' };
            Some((tag, mode, oid.to_owned(), record[tab + 1..].to_owned()))
        })
        .collect()
}

/// `--name-status -z`: letter, path.
fn named(output: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut words = output.split(|byte| *byte == 0);
    let mut found = Vec::new();
    while let (Some(&[letter, ..]), Some(path)) = (words.next(), words.next()) {
        found.push((letter, path.to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_taken_as_git_takes_them() {
        assert_eq!(without_cr(b"a\r\nb\rc\n\r"), b"a\nb\rc\n\r");
    }
}
