//! The superblock. Kernel: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h.

use crate::Options;
use crate::checksum::crc32c;
use crate::put::{put16, put32, put64};

/// Where it is; the bytes before belong to a boot loader.
pub(super) const AT: usize = 1024;
/// Bytes of it and of the compression's configuration behind it.
pub(super) const SIZE: usize = 128 + 16;

const MAGIC: u32 = 0xe0f5_e1e2;
const CHECKSUM: u32 = 0x1;
const MTIME: u32 = 0x2;
const ZERO_PADDING: u32 = 0x1;
const COMPRESSION_CONFIG: u32 = 0x2;
const CHUNKED_FILE: u32 = 0x4;
const LZ4: u16 = 0x1;
/// As far back as an LZ4 match can reach.
const LZ4_DISTANCE: u16 = u16::MAX;

/// What the superblock says beyond the options.
pub(super) struct Totals {
    pub(super) blocks: u32,
    pub(super) inodes: u64,
    pub(super) root: u16,
    /// First block of the shared attributes; zero for none.
    pub(super) xattr_block: u32,
    /// Most blocks of one compressed cluster; zero without compression.
    pub(super) cluster_blocks: u16,
}

/// Writes the superblock into the first block, which holds all else that it will, and seals it.
pub(super) fn put(block: &mut [u8], totals: &Totals, options: &Options) {
    let raw = &mut block[AT..];
    put32(raw, 0, MAGIC);
    put32(raw, 8, CHECKSUM | MTIME);
    raw[12] = 12;
    put16(raw, 14, totals.root);
    put64(raw, 16, totals.inodes);
    put64(raw, 24, options.time.cast_unsigned());
    put32(raw, 36, totals.blocks);
    put32(raw, 44, totals.xattr_block);
    raw[48..64].copy_from_slice(&options.uuid);
    raw[64..][..options.label.len()].copy_from_slice(options.label.as_bytes());
    let mut incompatible = CHUNKED_FILE;
    if totals.cluster_blocks > 0 {
        incompatible |= ZERO_PADDING | COMPRESSION_CONFIG;
        put16(raw, 84, LZ4);
        put16(raw, 128, 14);
        put16(raw, 130, LZ4_DISTANCE);
        put16(raw, 132, totals.cluster_blocks);
    }
    put32(raw, 80, incompatible);
    let sum = crc32c(!0, raw);
    put32(raw, 4, sum);
}
