//! Extent trees. Kernel documentation, ext4: "Extent Tree".

use std::io;

use crate::checksum::crc32c as checksum;
use crate::data::{BLOCK, Data, Extent};
use crate::put::{put16, put32};

const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;
const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK - HEADER) / ENTRY;

/// What an inode says about its blocks.
#[derive(Clone, Copy)]
pub(super) struct Root {
    pub(super) i_block: [u8; 60],
    /// Blocks of the tree below the inode.
    pub(super) tree_blocks: u64,
}

/// Writes the blocks of the tree over `extents`, which are in order, and returns its root.
/// `seed` is the inode's checksum seed.
pub(super) fn write(data: &mut Data<'_>, extents: &[Extent], seed: u32) -> io::Result<Root> {
    let mut entries: Vec<[u8; ENTRY]> = extents.iter().map(leaf).collect();
    let mut depth = 0;
    let mut tree_blocks = 0;
    while entries.len() > IN_INODE {
        let mut above = Vec::with_capacity(entries.len().div_ceil(IN_BLOCK));
        for chunk in entries.chunks(IN_BLOCK) {
            let mut block = [0; BLOCK];
            fill(&mut block, chunk, IN_BLOCK, depth);
            let tail = HEADER + IN_BLOCK * ENTRY;
            let sum = checksum(seed, &block[..tail]);
            put32(&mut block, tail, sum);
            let at = data.allocate_run(1);
            data.write(at, &block)?;
            tree_blocks += 1;
            above.push(index(&chunk[0], at));
        }
        entries = above;
        depth += 1;
    }
    let mut i_block = [0; 60];
    fill(&mut i_block, &entries, IN_INODE, depth);
    Ok(Root {
        i_block,
        tree_blocks,
    })
}

fn fill(node: &mut [u8], entries: &[[u8; ENTRY]], max: usize, depth: u16) {
    put16(node, 0, MAGIC);
    put16(node, 2, entries.len() as u16);
    put16(node, 4, max as u16);
    put16(node, 6, depth);
    for (i, entry) in entries.iter().enumerate() {
        node[HEADER + i * ENTRY..][..ENTRY].copy_from_slice(entry);
    }
}

fn leaf(extent: &Extent) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    put32(&mut entry, 0, extent.logical);
    put16(&mut entry, 4, extent.len as u16);
    put16(&mut entry, 6, (extent.start >> 32) as u16);
    put32(&mut entry, 8, extent.start as u32);
    entry
}

fn index(first: &[u8; ENTRY], block: u64) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..4].copy_from_slice(&first[..4]);
    put32(&mut entry, 4, block as u32);
    put16(&mut entry, 8, (block >> 32) as u16);
    entry
}
