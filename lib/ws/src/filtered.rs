//! Files that a filter of the host's stands before, such as Git LFS: the repository keeps other bytes than the
//! working tree has, and the guest gets those of the working tree. Their object's name tells later that the
//! guest has not changed them, though it may have written them again.

use crate::error::Result;
use crate::git::{Git, quoted};
use crate::manifest::{Kept, Manifest};
use crate::repository::{Repository, Scan};

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
