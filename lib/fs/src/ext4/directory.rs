//! Directory blocks: one linear block, or a hash tree. Kernel documentation, ext4: "Directory
//! Entries".

use super::hash::half_md4;
use crate::checksum::crc32c as checksum;
use crate::data::BLOCK;
use crate::put::{put16, put32};

/// Bytes of the checksum entry at the end of a block of entries.
const TAIL: usize = 12;
/// Bytes of the checksum at the end of an index block.
const INDEX_TAIL: usize = 8;
const HALF_MD4: u8 = 1;
const DIRECTORY: u8 = 2;
/// Where the limit and count of entries are in the root and in other index blocks.
const ROOT_ENTRIES: usize = 32;
const NODE_ENTRIES: usize = 8;
/// Levels of index blocks below the root without `large_dir`.
const PLAIN_LEVELS: u8 = 1;

/// One name.
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) inode: u32,
    /// The `file_type` of the entry.
    pub(super) kind: u8,
}

/// The blocks of a directory, in order.
pub(super) struct Directory {
    pub(super) bytes: Vec<u8>,
    pub(super) indexed: bool,
    pub(super) large: bool,
}

/// Lays a directory out. `entries` are without `.` and `..`; `seed` is the inode's checksum seed.
pub(super) fn write(
    entries: &[Entry<'_>],
    own: u32,
    parent: u32,
    hash_seed: &[u32; 4],
    seed: u32,
) -> Directory {
    let dots = [
        Entry {
            name: b".",
            inode: own,
            kind: DIRECTORY,
        },
        Entry {
            name: b"..",
            inode: parent,
            kind: DIRECTORY,
        },
    ];
    let bytes: usize = dots.iter().chain(entries).map(length).sum();
    if bytes <= BLOCK - TAIL {
        let mut block = vec![0; BLOCK];
        fill(&mut block, dots.iter().chain(entries), seed);
        return Directory {
            bytes: block,
            indexed: false,
            large: false,
        };
    }
    let mut sorted: Vec<(u32, &Entry<'_>)> = entries
        .iter()
        .map(|entry| (half_md4(entry.name, hash_seed), entry))
        .collect();
    sorted.sort_by_key(|&(hash, _)| hash);
    index(&sorted, &dots, seed)
}

fn index(sorted: &[(u32, &Entry<'_>)], dots: &[Entry<'_>; 2], seed: u32) -> Directory {
    // The root comes first, then the leaves, then other index blocks.
    let mut bytes = vec![0; BLOCK];
    let mut below: Vec<(u32, u32)> = Vec::new();
    let mut start = 0;
    while start < sorted.len() {
        let (mut end, mut room) = (start, BLOCK - TAIL);
        while end < sorted.len() && length(sorted[end].1) <= room {
            room -= length(sorted[end].1);
            end += 1;
        }
        let split = start > 0 && sorted[start - 1].0 == sorted[start].0;
        // The lowest bit says that the hash continues from the block before.
        below.push((
            sorted[start].0 | u32::from(split),
            (bytes.len() / BLOCK) as u32,
        ));
        let at = bytes.len();
        bytes.resize(at + BLOCK, 0);
        fill(
            &mut bytes[at..],
            sorted[start..end].iter().map(|&(_, entry)| entry),
            seed,
        );
        start = end;
    }
    let mut levels = 0;
    while below.len() > limit(ROOT_ENTRIES) {
        let mut nodes = Vec::new();
        for chunk in below.chunks(limit(NODE_ENTRIES)) {
            nodes.push((chunk[0].0, (bytes.len() / BLOCK) as u32));
            let mut node = [0; BLOCK];
            put16(&mut node, 4, BLOCK as u16);
            fill_index(&mut node, NODE_ENTRIES, chunk, seed);
            bytes.extend_from_slice(&node);
        }
        below = nodes;
        levels += 1;
    }
    let root = &mut bytes[..BLOCK];
    put_entry(root, 0, &dots[0], 12);
    put_entry(root, 12, &dots[1], BLOCK - 12);
    root[28] = HALF_MD4;
    root[29] = 8;
    root[30] = levels;
    fill_index(root, ROOT_ENTRIES, &below, seed);
    Directory {
        bytes,
        indexed: true,
        large: levels > PLAIN_LEVELS,
    }
}

/// Entries an index block holds besides its header and checksum.
fn limit(entries_at: usize) -> usize {
    (BLOCK - entries_at - INDEX_TAIL) / 8
}

fn fill_index(block: &mut [u8], at: usize, below: &[(u32, u32)], seed: u32) {
    for (i, &(hash, logical)) in below.iter().enumerate() {
        put32(block, at + i * 8, hash);
        put32(block, at + i * 8 + 4, logical);
    }
    // Limit and count take the place of the first hash, which is never looked at.
    put16(block, at, limit(at) as u16);
    put16(block, at + 2, below.len() as u16);
    let sum = checksum(seed, &block[..at + below.len() * 8]);
    let sum = checksum(sum, &[0; INDEX_TAIL]);
    put32(block, BLOCK - 4, sum);
}

/// Fills a block of entries; the last one reaches to the checksum.
fn fill<'a, 'b: 'a>(block: &mut [u8], entries: impl Iterator<Item = &'a Entry<'b>>, seed: u32) {
    let mut entries = entries.peekable();
    let mut at = 0;
    while let Some(entry) = entries.next() {
        let len = match entries.peek() {
            Some(_) => length(entry),
            None => BLOCK - TAIL - at,
        };
        put_entry(block, at, entry, len);
        at += len;
    }
    put16(block, BLOCK - TAIL + 4, TAIL as u16);
    block[BLOCK - TAIL + 7] = 0xde;
    let sum = checksum(seed, &block[..BLOCK - TAIL]);
    put32(block, BLOCK - 4, sum);
}

fn put_entry(block: &mut [u8], at: usize, entry: &Entry<'_>, len: usize) {
    put32(block, at, entry.inode);
    put16(block, at + 4, len as u16);
    block[at + 6] = entry.name.len() as u8;
    block[at + 7] = entry.kind;
    block[at + 8..][..entry.name.len()].copy_from_slice(entry.name);
}

fn length(entry: &Entry<'_>) -> usize {
    8 + entry.name.len().next_multiple_of(4)
}
