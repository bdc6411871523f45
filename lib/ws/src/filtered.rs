//! Files that a filter of the host's stands before, such as Git LFS: the repository keeps other bytes than the
//! working tree has, and the guest gets those of the working tree. Their object's name tells later that the
//! guest has not changed them, though it may have written them again.

use std::collections::HashSet;
use std::path::Path;

use crate::collect::Collected;
use crate::error::Result;
use crate::git::{Git, quoted};
use crate::manifest::{Kept, Manifest};
use crate::repository::Repository;
use crate::scan::{Scan, os};

/// Attributes by which git keeps other bytes than the working tree has, beside those about line ends (gitattributes(5)).
const CONVERTING: [&str; 3] = ["filter", "ident", "working-tree-encoding"];
/// Paths in one question: the answers are held together.
const AT_ONCE: usize = 4096;

/// Names the bytes of the working tree for each such file; what is as it was when `old` was sent keeps its name.
///
/// # Errors
/// When git cannot read a file.
pub(crate) fn name(
    git: &Git,
    repository: &Repository,
    scan: &mut Scan,
    old: Option<&Manifest>,
) -> Result<()> {
    let (mut paths, mut input) = (Vec::new(), Vec::new());
    for (path, item) in &mut scan.manifest.items {
        if item.kept != Kept::Filtered {
            continue;
        }
        let seen = scan.seen.get(path).map(|seen| (seen.size(), seen.mtime()));
        let before = old.and_then(|old| old.items.get(path)).filter(|before| {
            // The guest's file got the size and time of the host's.
            let sent = before.guest.map(|guest| (guest.size, guest.mtime));
            before.oid == item.oid && sent.is_some() && sent == seen
        });
        item.raw = before.and_then(|before| before.raw.clone());
        if item.raw.is_none() {
            paths.push(path.clone());
            input.extend(quoted(path));
            input.push(b'\n');
        }
    }
    if paths.is_empty() {
        return Ok(());
    }
    let names = git
        .of_user(&repository.top, "hash-object")
        .args(["--no-filters", "--stdin-paths"])
        .output_of(&input)?;
    let names = String::from_utf8_lossy(&names);
    for (path, name) in paths.iter().zip(names.lines()) {
        if let Some(item) = scan.manifest.items.get_mut(path) {
            item.raw = Some(name.into());
        }
    }
    Ok(())
}

/// Files that are new in the guest, and that the host's git would keep otherwise than they come, by its attributes.
/// Where git cannot say, because the repository is gone, there are none.
pub(crate) fn new_files(
    git: &Git,
    top: &Path,
    manifest: &Manifest,
    collected: &Collected,
) -> HashSet<Vec<u8>> {
    let mut found = HashSet::new();
    for (index, root) in manifest.roots.iter().enumerate() {
        let new = collected.changed.keys();
        let new = new.filter(|path| !manifest.items.contains_key(*path));
        let inner: Vec<&[u8]> = new
            .filter_map(|path| match manifest.root_of(path) {
                (of, inner) if of == index => Some(inner),
                _ => None,
            })
            .collect();
        let directory = top.join(os(&root.prefix));
        for paths in inner.chunks(AT_ONCE) {
            let Ok(converted) = converted(git, &directory, paths) else {
                break;
            };
            let whole = |path: &Vec<u8>| [&root.prefix[..], path].concat();
            found.extend(converted.iter().map(whole));
        }
    }
    found
}

/// Which of these paths have such an attribute (git-check-attr(1), `-z`: path, attribute, value).
fn converted(git: &Git, top: &Path, paths: &[&[u8]]) -> Result<HashSet<Vec<u8>>> {
    let mut input = paths.join(&0);
    input.push(0);
    let said = git
        .of_user(top, "check-attr")
        .args(["-z", "--stdin"])
        .args(CONVERTING)
        .output_of(&input)?;
    let words: Vec<&[u8]> = said.split(|byte| *byte == 0).collect();
    let set = words
        .chunks_exact(3)
        .filter(|words| !matches!(words[2], b"unspecified" | b"unset"));
    Ok(set.map(|words| words[0].to_owned()).collect())
}
