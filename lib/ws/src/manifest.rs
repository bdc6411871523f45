//! What went into the guest: each file with its git object, and how the guest's file system had it when
//! the copy was whole. Kept in the workspace's directory, replaced by rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
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
    pub(crate) raw: Option<Box<str>>,
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
        match File::open(&path).and_then(|file| decode(BufReader::new(file))) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(WsError::io("read", &path)(error)),
        }
    }

    /// What copies that were cut off were sending, the oldest first; with none that cannot be read.
    pub(crate) fn cut_off(directory: &Path) -> Vec<Manifest> {
        (0..MOST_CUT_OFF)
            .map_while(|number| File::open(directory.join(sending(number))).ok())
            .filter_map(|file| decode(BufReader::new(file)).ok())
            .collect()
    }

    /// Writes down what is about to be sent, so that it is not taken for the guest's if the copy is cut off.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn announce(&self, directory: &Path) -> Result<()> {
        let free = (0..MOST_CUT_OFF - 1).find(|number| !directory.join(sending(*number)).exists());
        let file = sending(free.unwrap_or(MOST_CUT_OFF - 1));
        write_durably(&directory.join(file), |out| self.encode(out))
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
        write_durably(&directory.join(FILE), |out| self.encode(out))
    }

    fn encode(&self, out: &mut dyn Write) -> io::Result<()> {
        let header = Header {
            version: VERSION,
            format: self.format.clone(),
            roots: self.roots.clone(),
            git: self.git,
            excludes: self.excludes.clone(),
        };
        serde_json::to_writer(&mut *out, &header)?;
        out.write_all(b"\n")?;
        for (path, item) in &self.items {
            let kept = match item.kept {
                Kept::AsIs => 'a',
                Kept::Crlf => 'c',
                Kept::Filtered => 'f',
            };
            write!(
                out,
                "{:o} {} {} {kept}{} {}",
                item.mode,
                item.oid,
                item.root,
                item.raw.as_deref().unwrap_or_default(),
                u8::from(item.absent)
            )?;
            if let Some(listed) = &item.guest {
                write!(
                    out,
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
                )?;
            }
            out.write_all(b"\t")?;
            out.write_all(path)?;
            out.write_all(&[0])?;
        }
        Ok(())
    }
}

fn sending(number: u32) -> String {
    format!("sending-{number}")
}

/// Writes a file beside its place, syncs it, and gives it its name.
pub(crate) fn write_durably(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let new = path.with_extension("new");
    let written = point("workspace.write").and_then(|()| {
        let mut file = BufWriter::new(File::create(&new)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()
    });
    written.map_err(WsError::io("write", &new))?;
    point("workspace.rename")
        .and_then(|()| fs::rename(&new, path))
        .map_err(WsError::io("write", path))
}

fn decode(mut from: impl BufRead) -> io::Result<Manifest> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    let mut record = Vec::new();
    from.read_until(b'\n', &mut record)?;
    let header: Header = serde_json::from_slice(&record)?;
    if header.version != VERSION || header.roots.is_empty() {
        return Err(damaged());
    }
    let mut items = BTreeMap::new();
    loop {
        record.clear();
        if from.read_until(0, &mut record)? == 0 {
            break;
        }
        if record.pop() != Some(0) {
            return Err(damaged());
        }
        let (path, item) = decode_item(&record).ok_or_else(damaged)?;
        items.insert(path.to_owned(), item);
    }
    Ok(Manifest {
        format: header.format,
        roots: header.roots,
        git: header.git,
        excludes: header.excludes,
        items,
    })
}

fn decode_item(record: &[u8]) -> Option<(&[u8], Item)> {
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
        ("f", raw) => (Kept::Filtered, Some(raw.into())),
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
    Some((&record[tab + 1..], item))
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
            raw: Some("ef".repeat(20).into()),
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
        let mut bytes = Vec::new();
        manifest.encode(&mut bytes).unwrap();
        for end in 0..bytes.len() {
            let half = decode(&bytes[..end]);
            assert!(half.is_err() || half.is_ok_and(|half| half != manifest));
        }
    }
}
