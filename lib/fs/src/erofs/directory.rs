//! Directory blocks: entries in order of their names, then the names. Kernel:
//! Documentation/filesystems/erofs.rst, "Directories".

use crate::data::BLOCK;
use crate::put::{put16, put64};

const ENTRY: usize = 12;

/// One name, `.` and `..` among them.
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// Number of the inode.
    pub(super) inode: u64,
    pub(super) kind: u8,
}

/// How many entries each block takes, of names in order, and the bytes that the last one has.
pub(super) fn split<'a>(names: impl Iterator<Item = &'a [u8]>) -> (Vec<usize>, usize) {
    let mut counts = Vec::new();
    let (mut count, mut used) = (0, 0);
    for name in names {
        let bytes = ENTRY + name.len();
        if used + bytes > BLOCK {
            counts.push(count);
            (count, used) = (0, 0);
        }
        count += 1;
        used += bytes;
    }
    counts.push(count);
    (counts, used)
}

/// The content of a directory: whole blocks, then what the last one has.
pub(super) fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let (counts, last) = split(entries.iter().map(|entry| entry.name));
    let mut bytes = vec![0; (counts.len() - 1) * BLOCK + last];
    let mut rest = entries;
    for (block, &count) in counts.iter().enumerate() {
        let (here, after) = rest.split_at(count);
        let end = bytes.len().min((block + 1) * BLOCK);
        fill(&mut bytes[block * BLOCK..end], here);
        rest = after;
    }
    bytes
}

fn fill(block: &mut [u8], entries: &[Entry<'_>]) {
    let mut name_at = entries.len() * ENTRY;
    for (entry, at) in entries.iter().zip((0..).step_by(ENTRY)) {
        put64(block, at, entry.inode);
        put16(block, at + 8, name_at as u16);
        block[at + 10] = entry.kind;
        block[name_at..name_at + entry.name.len()].copy_from_slice(entry.name);
        name_at += entry.name.len();
    }
}
