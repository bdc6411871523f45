//! What went into the guest: each file with its git object, and how the guest's file system had it when
//! the copy was whole. Kept in the workspace's directory, replaced by rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use banger_tree::Listed;
use serde::{Deserialize, Serialize};

use crate::error::{Result, WsError};

/// The file's name.
pub(crate) const FILE: &str = "manifest";
const VERSION: u32 = 1;
/// So many copies in a row may be cut off until one that was sent is taken for the guest's.
const MOST_CUT_OFF: u32 = 16;

/// Git's mode of a submodule.
pub(crate) const GITLINK: u32 = 0o160_000;
/// Git's mode of a symbolic link.
pub(crate) const SYMLINK: u32 = 0o120_000;
/// Git's mode of a file that may be executed.
pub(crate) const EXECUTABLE: u32 = 0o100_755;
/// Git's mode of any other file.
pub(crate) const PLAIN: u32 = 0o100_644;

/// How the bytes of a file in the working tree are kept in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// As they are.
    AsIs,
    /// With LF where the working tree has CRLF.
    Crlf,
    /// In another way that only the host's configuration knows, such as a filter.
    Filtered,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Git's.
    pub(crate) mode: u32,
    /// Of the blob, in hexadecimal; of the commit for a submodule.
    pub(crate) oid: String,
    /// Of the bytes in the working tree, where a filter makes them others than the repository's.
    pub(crate) raw: Option<String>,
    /// Which of the roots it belongs to.
    pub(crate) root: usize,
    /// How the repository keeps it.
    pub(crate) kept: Kept,
    /// A sparse checkout leaves it out: it is in the repository and nowhere else.
    pub(crate) absent: bool,
    /// The guest's file when it was as sent; none when that is not known.
    pub(crate) guest: Option<Listed>,
}

impl Item {
    /// A file of this mode and content is the one that went in.
    pub(crate) fn is(&self, mode: u32, oid: &str) -> bool {
        self.mode == mode && (self.oid == oid || self.raw.as_deref() == Some(oid))
    }
}

/// A repository of the workspace: the one that was named, then its submodules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    /// Where it is in the workspace: empty, or a path and a slash.
    pub(crate) prefix: Vec<u8>,
    /// Where its objects are.
    pub(crate) objects: PathBuf,
    /// The tree of what went in, in the scratch repository.
    pub(crate) tree: String,
    /// The commit that was checked out.
    pub(crate) base: Option<String>,
    /// The commit's tree.
    pub(crate) base_tree: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    format: String,
    roots: Vec<Root>,
    #[serde(default)]
    git: Option<bool>,
    #[serde(default)]
    excludes: Vec<u8>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// `sha1` or `sha256`.
    pub(crate) format: String,
    /// At least one.
    pub(crate) roots: Vec<Root>,
    /// The guest has a repository there; none where that was not written down.
    pub(crate) git: Option<bool>,
    /// The lines of the host's own excludes: those of the user and of the repository.
    pub(crate) excludes: Vec<u8>,
    /// By path.
    pub(crate) items: BTreeMap<Vec<u8>, Item>,
}

impl Manifest {
    /// Where objects are that only the host's repositories have.
    pub(crate) fn alternates(&self) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.objects.clone()).collect()
    }

    /// The root that a path belongs to, and the path in it.
    pub(crate) fn root_of<'p>(&self, path: &'p [u8]) -> (usize, &'p [u8]) {
        let found = self
            .roots
            .iter()
            .enumerate()
            .filter(|(_, root)| path.starts_with(&root.prefix))
            .max_by_key(|(_, root)| root.prefix.len());
        match found {
            Some((index, root)) => (index, &path[root.prefix.len()..]),
            None => (0, path),
        }
    }

    /// Reads it; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(crate) fn load(directory: &Path) -> Result<Option<Manifest>> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WsError::io("read", &path)(error)),
        };
        decode(&bytes).map(Some).ok_or_else(|| {
            let damaged = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is damaged");
            WsError::io("read", &path)(damaged)
        })
    }

    /// What copies that were cut off were sending, the oldest first; with none that cannot be read.
    pub(crate) fn cut_off(directory: &Path) -> Vec<Manifest> {
        (0..MOST_CUT_OFF)
            .map_while(|number| fs::read(directory.join(sending(number))).ok())
            .filter_map(|bytes| decode(&bytes))
            .collect()
    }

    /// Writes down what is about to be sent, so that it is not taken for the guest's if the copy is cut off.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn announce(&self, directory: &Path) -> Result<()> {
        let free = (0..MOST_CUT_OFF - 1).find(|number| !directory.join(sending(*number)).exists());
        let file = sending(free.unwrap_or(MOST_CUT_OFF - 1));
        write_durably(&directory.join(file), &self.encode())
    }

    /// The copy is whole: the last first, so that none is hidden behind a gap.
    pub(crate) fn forget_cut_off(directory: &Path) {
        for number in (0..MOST_CUT_OFF).rev() {
            let _ = fs::remove_file(directory.join(sending(number)));
        }
    }

    /// Replaces the one that is there, durably.
    ///
    /// # Errors
    /// When it cannot be written; then the old one stays.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        write_durably(&directory.join(FILE), &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let header = Header {
            version: VERSION,
            format: self.format.clone(),
            roots: self.roots.clone(),
            git: self.git,
            excludes: self.excludes.clone(),
        };
        let mut out = serde_json::to_vec(&header).unwrap_or_default();
        out.push(b'\n');
        for (path, item) in &self.items {
            let kept = match item.kept {
                Kept::AsIs => 'a',
                Kept::Crlf => 'c',
                Kept::Filtered => 'f',
            };
            let line = format!(
                "{:o} {} {} {kept}{} {}",
                item.mode,
                item.oid,
                item.root,
                item.raw.as_deref().unwrap_or_default(),
                u8::from(item.absent)
            );
            out.extend_from_slice(line.as_bytes());
            if let Some(listed) = &item.guest {
                let line = format!(
                    " {:o} {} {} {} {} {} {} {} {} {}",
                    listed.mode,
                    listed.uid,
                    listed.gid,
                    listed.dev,
                    listed.ino,
                    listed.size,
                    listed.mtime.0,
                    listed.mtime.1,
                    listed.ctime.0,
                    listed.ctime.1
                );
                out.extend_from_slice(line.as_bytes());
            }
            out.push(b'\t');
            out.extend_from_slice(path);
            out.push(0);
        }
        out
    }
}

fn sending(number: u32) -> String {
    format!("sending-{number}")
}

/// Writes a file beside its place, syncs it, and gives it its name.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let written = point("workspace.write").and_then(|()| {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(WsError::io("write", &new))?;
    point("workspace.rename")
        .and_then(|()| fs::rename(&new, path))
        .map_err(WsError::io("write", path))
}

fn decode(bytes: &[u8]) -> Option<Manifest> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    if header.version != VERSION || header.roots.is_empty() {
        return None;
    }
    let mut items = BTreeMap::new();
    let body = &bytes[end + 1..];
    let body = match body.strip_suffix(&[0]) {
        Some(body) => body,
        None if body.is_empty() => body,
        None => return None,
    };
    for record in body.split(|byte| *byte == 0).filter(|r| !r.is_empty()) {
        let tab = record.iter().position(|byte| *byte == b'\t')?;
        let text = std::str::from_utf8(&record[..tab]).ok()?;
        let mut words = text.split(' ');
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let oid = words.next()?.to_owned();
        let root = words.next()?.parse().ok()?;
        let (kept, raw) = match words.next()?.split_at_checked(1)? {
            ("a", "") => (Kept::AsIs, None),
            ("c", "") => (Kept::Crlf, None),
            ("f", "") => (Kept::Filtered, None),
            ("f", raw) => (Kept::Filtered, Some(raw.to_owned())),
            _ => return None,
        };
        let absent = words.next()? == "1";
        let guest = match words.next() {
            None => None,
            Some(mode) => Some(Listed {
                mode: u32::from_str_radix(mode, 8).ok()?,
                uid: words.next()?.parse().ok()?,
                gid: words.next()?.parse().ok()?,
                dev: words.next()?.parse().ok()?,
                ino: words.next()?.parse().ok()?,
                size: words.next()?.parse().ok()?,
                mtime: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
                ctime: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
            }),
        };
        let item = Item {
            mode,
            oid,
            raw,
            root,
            kept,
            absent,
            guest,
        };
        items.insert(record[tab + 1..].to_owned(), item);
    }
    Some(Manifest {
        format: header.format,
        roots: header.roots,
        git: header.git,
        excludes: header.excludes,
        items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_as_it_was_and_half_of_it_does_not() {
        let listed = Listed {
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            dev: 3,
            ino: u64::MAX,
            size: 5,
            mtime: (-6, 7),
            ctime: (8, 9),
        };
        let item = |guest| Item {
            mode: PLAIN,
            oid: "ab".repeat(20),
            raw: None,
            root: 0,
            kept: Kept::Crlf,
            absent: false,
            guest,
        };
        let filtered = Item {
            raw: Some("ef".repeat(20)),
            kept: Kept::Filtered,
            ..item(Some(listed))
        };
        let manifest = Manifest {
            format: "sha1".into(),
            roots: vec![Root {
                prefix: Vec::new(),
                objects: "/x/objects".into(),
                tree: "cd".repeat(20),
                base: None,
                base_tree: None,
            }],
            git: Some(true),
            excludes: b"*.o\n".to_vec(),
            items: BTreeMap::from([
                (b"a\tb\n\xff".to_vec(), item(Some(listed))),
                (b"c".to_vec(), item(None)),
                (b"d".to_vec(), filtered),
            ]),
        };
        let base = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(base.path()).unwrap(), None);
        manifest.save(base.path()).unwrap();
        assert_eq!(Manifest::load(base.path()).unwrap(), Some(manifest.clone()));
        let bytes = manifest.encode();
        for end in 0..bytes.len() {
            assert_ne!(decode(&bytes[..end]), Some(manifest.clone()));
        }
    }
}
