//! How the blocks of a file are found: the index of its clusters or the map of its chunks, behind
//! its record. Kernel: fs/erofs/erofs_fs.h, `z_erofs_lcluster_index` and `erofs_inode_chunk_info`.

use super::inode::Layout;
use super::packer::{Stored, chunk_bits};
use crate::data::{BLOCK, Extent};
use crate::put::{put16, put32};

/// Bytes before the index of clusters: its header and what an older format had there.
const CLUSTER_HEADER: usize = 16;
const CLUSTER_ENTRY: usize = 8;
const CHUNK_ENTRY: usize = 4;
const HOLE: u32 = u32::MAX;

/// Compressed clusters may have several blocks.
const BIG_CLUSTERS: u16 = 2;
const PLAIN: u16 = 0;
const HEAD: u16 = 1;
const NOT_HEAD: u16 = 2;
/// The first block after the head says how many blocks the cluster has.
const COUNT: u16 = 1 << 11;

/// The number of the record that such a file is behind already, if it is.
pub(super) fn inline(extents: &[Extent]) -> Option<u64> {
    match extents.first().map(Stored::of) {
        Some(Stored::Inline(number)) => Some(number),
        _ => None,
    }
}

/// How extents are described.
enum Form {
    /// One run from this block on.
    Run(u64),
    Clusters,
    /// Chunks of 2ⁿ blocks.
    Chunks(u8),
}

fn form(extents: &[Extent], blocks: u64) -> Form {
    let Some(first) = extents.first() else {
        // Nothing but holes is a map, nothing at all a run.
        return if blocks == 0 {
            Form::Run(0)
        } else {
            Form::Chunks(chunk_bits(blocks, 1))
        };
    };
    let mut end = 0;
    let (start, mut run, mut chunks) = (address(first), true, None);
    for extent in extents {
        match Stored::of(extent) {
            Stored::Plain(block) | Stored::Chunk(block, _) => {
                if let Stored::Chunk(_, bits) = Stored::of(extent) {
                    chunks = Some(bits);
                }
                run &= u64::from(extent.logical) == end && block == start + end;
            }
            Stored::Cluster(..) | Stored::Inline(_) => return Form::Clusters,
        }
        end = u64::from(extent.logical) + u64::from(extent.len);
    }
    match chunks {
        _ if run && end == blocks => Form::Run(start),
        Some(bits) => Form::Chunks(bits),
        None => Form::Clusters,
    }
}

fn address(extent: &Extent) -> u64 {
    super::stored_blocks(extent).0
}

/// Bytes behind a record of `head` bytes with its attributes.
pub(super) fn bytes(extents: &[Extent], size: u64, head: usize) -> u64 {
    let blocks = size.div_ceil(BLOCK as u64);
    match form(extents, blocks) {
        Form::Run(_) => 0,
        Form::Clusters => {
            let header = head.next_multiple_of(8) - head + CLUSTER_HEADER;
            header as u64 + blocks * CLUSTER_ENTRY as u64
        }
        Form::Chunks(bits) => blocks.div_ceil(1 << bits) * CHUNK_ENTRY as u64,
    }
}

/// The layout and what is behind the record.
pub(super) fn encode(extents: &[Extent], size: u64, head: usize) -> (Layout, Vec<u8>) {
    let blocks = size.div_ceil(BLOCK as u64);
    match form(extents, blocks) {
        Form::Run(start) => (Layout::Plain(start as u32), Vec::new()),
        Form::Clusters => clusters(extents, blocks, head),
        Form::Chunks(bits) => chunks(extents, bits, blocks),
    }
}

fn clusters(extents: &[Extent], blocks: u64, head: usize) -> (Layout, Vec<u8>) {
    let at = head.next_multiple_of(8) - head;
    let entries = at + CLUSTER_HEADER;
    let mut bytes = vec![0; entries + blocks as usize * CLUSTER_ENTRY];
    put16(&mut bytes, at + 4, BIG_CLUSTERS);
    let mut stored = 0;
    for extent in extents {
        let first = entries + extent.logical as usize * CLUSTER_ENTRY;
        let rest = &mut bytes[first..];
        match Stored::of(extent) {
            Stored::Cluster(block, count) => {
                stored += u32::from(count);
                put16(rest, 0, HEAD);
                put32(rest, 4, block as u32);
                for i in 1..extent.len as usize {
                    let back = if i == 1 { COUNT | count } else { i as u16 };
                    put16(rest, i * CLUSTER_ENTRY, NOT_HEAD);
                    put16(rest, i * CLUSTER_ENTRY + 4, back);
                    put16(
                        rest,
                        i * CLUSTER_ENTRY + 6,
                        (extent.len as usize - i) as u16,
                    );
                }
            }
            Stored::Plain(block) | Stored::Chunk(block, _) | Stored::Inline(block) => {
                stored += extent.len;
                for i in 0..extent.len as usize {
                    put16(rest, i * CLUSTER_ENTRY, PLAIN);
                    put32(rest, i * CLUSTER_ENTRY + 4, block as u32 + i as u32);
                }
            }
        }
    }
    (Layout::Compressed(stored), bytes)
}

fn chunks(extents: &[Extent], bits: u8, blocks: u64) -> (Layout, Vec<u8>) {
    let count = blocks.div_ceil(1 << bits) as usize;
    let mut bytes = HOLE.to_le_bytes().repeat(count);
    for extent in extents {
        let start = address(extent);
        let (from, to) = (
            extent.logical >> bits,
            (extent.logical + extent.len - 1) >> bits,
        );
        for chunk in from..=to {
            let logical = u64::from(chunk) << bits;
            // The rest of a chunk that began in the extent before.
            if logical >= u64::from(extent.logical) {
                let block = start + logical - u64::from(extent.logical);
                put32(&mut bytes, chunk as usize * CHUNK_ENTRY, block as u32);
            }
        }
    }
    (Layout::Chunks(bits), bytes)
}
