//! The guest's index, made on the host: with the guest's own stat data in it, the guest's git takes each
//! file for unchanged without reading it (gitformat-index(5)).

use std::collections::BTreeMap;

use banger_tree::Listed;
use sha1::Digest as _;

use crate::manifest::{GITLINK, SYMLINK};

/// An entry of the index.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Git's mode.
    pub(crate) mode: u32,
    /// In hexadecimal.
    pub(crate) oid: String,
    /// The guest's file, if it has this content; none makes git look at it.
    pub(crate) file: Option<Listed>,
    /// Not in the working tree (sparse checkout).
    pub(crate) skip: bool,
}

const SKIP_WORKTREE: u16 = 0x4000;
const EXTENDED: u16 = 0x4000;

/// The file's bytes; none when an object's name is malformed.
pub(crate) fn encode(format: &str, entries: &BTreeMap<Vec<u8>, Entry>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(entries.len() * 100);
    let version: u32 = if entries.values().any(|entry| entry.skip) {
        3
    } else {
        2
    };
    out.extend_from_slice(b"DIRC");
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&u32::try_from(entries.len()).ok()?.to_be_bytes());
    for (path, entry) in entries {
        let start = out.len();
        let file = entry.file.filter(|_| entry.mode != GITLINK);
        let words = match file {
            // Truncated as git does.
            Some(file) => [
                file.ctime.0 as u32,
                file.ctime.1,
                file.mtime.0 as u32,
                file.mtime.1,
                file.dev,
                file.ino as u32,
                entry.mode,
                file.uid,
                file.gid,
                file.size as u32,
            ],
            None => [0, 0, 0, 0, 0, 0, entry.mode, 0, 0, 0],
        };
        for word in words {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend(bytes(&entry.oid)?);
        let mut flags = u16::try_from(path.len().min(0xfff)).ok()?;
        if entry.skip {
            flags |= EXTENDED;
        }
        out.extend_from_slice(&flags.to_be_bytes());
        if entry.skip {
            out.extend_from_slice(&SKIP_WORKTREE.to_be_bytes());
        }
        out.extend_from_slice(path);
        // One to eight zeros, so that the length is a multiple of eight.
        let length = out.len() - start;
        out.resize(start + (length / 8 + 1) * 8, 0);
    }
    match format {
        "sha256" => {
            let sum = sha2::Sha256::digest(&out);
            out.extend_from_slice(&sum);
        }
        _ => {
            let sum = sha1::Sha1::digest(&out);
            out.extend_from_slice(&sum);
        }
    }
    Some(out)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !matches!(hex.len(), 40 | 64) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok())
        .collect()
}

/// What git's mode makes of a listed file.
pub(crate) fn git_mode(file: &Listed) -> u32 {
    match (file.is_symlink(), file.mode & 0o100) {
        (true, _) => SYMLINK,
        (false, 0) => crate::manifest::PLAIN,
        (false, _) => crate::manifest::EXECUTABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Git;

    #[test]
    fn git_reads_the_index_and_sees_nothing_changed() {
        use std::os::unix::fs::MetadataExt;
        let base = tempfile::tempdir().unwrap();
        let git = Git::find().unwrap();
        let run = |name: &str, arguments: &[&str]| {
            let call = git.of_user(base.path(), name).args(arguments);
            call.line().unwrap()
        };
        run("init", &["-q"]);
        let mut entries = BTreeMap::new();
        for name in ["a", "a.b", "a/very/deep/place", "z\u{e4}\n"] {
            if name.contains('/') {
                continue;
            }
            let path = base.path().join(name);
            std::fs::write(&path, name).unwrap();
            let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(old).unwrap();
            let oid = run("hash-object", &["-w", "--", name]);
            let m = path.metadata().unwrap();
            let file = Listed {
                mode: m.mode(),
                uid: m.uid(),
                gid: m.gid(),
                dev: m.dev() as u32,
                ino: m.ino(),
                size: m.size(),
                mtime: (m.mtime(), m.mtime_nsec() as u32),
                ctime: (m.ctime(), m.ctime_nsec() as u32),
            };
            let entry = Entry {
                mode: git_mode(&file),
                oid: oid.clone(),
                file: Some(file),
                skip: false,
            };
            entries.insert(name.as_bytes().to_vec(), entry);
        }
        let absent = Entry {
            mode: 0o100_644,
            oid: entries[&b"a"[..]].oid.clone(),
            file: None,
            skip: true,
        };
        entries.insert(b"sparse/x".to_vec(), absent);
        let index = base.path().join(".git/index");
        std::fs::write(&index, encode("sha1", &entries).unwrap()).unwrap();
        // Without a refresh: what git would have to read counts as changed.
        assert_eq!(run("diff-files", &[]), "");
        let listed = run("ls-files", &["-t"]);
        assert!(listed.starts_with("H a\nH a.b\nS sparse/x\n"), "{listed}");
        run("fsck", &["--no-dangling"]);
    }
}
