//! The superblock. Kernel documentation, ext4: "Super Block".

use super::layout::{BLOCKS_PER_GROUP, DESCRIPTOR, INODE_SIZE, Plan};
use crate::Options;
use crate::checksum::crc32c as checksum;
use crate::put::{put16, put32, put32_split};

pub(super) const SIZE: usize = 1024;
pub(super) const FIRST_INODE: u32 = 11;
pub(super) const JOURNAL_INODE: u32 = 8;

const HAS_JOURNAL: u32 = 0x4;
const EXT_ATTR: u32 = 0x8;
const DIR_INDEX: u32 = 0x20;

const FILETYPE: u32 = 0x2;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const BITS_64: u32 = 0x80;
const FLEX_BG: u32 = 0x200;
const LARGE_DIR: u32 = 0x4000;

const SPARSE_SUPER: u32 = 0x1;
const LARGE_FILE: u32 = 0x2;
const HUGE_FILE: u32 = 0x8;
const DIR_NLINK: u32 = 0x20;
const EXTRA_ISIZE: u32 = 0x40;
const METADATA_CSUM: u32 = 0x400;

/// What the superblock says beyond the options.
pub(super) struct Totals {
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u32,
    pub(super) large_dir: bool,
    /// The journal inode's block field and size.
    pub(super) journal: Option<([u8; 60], u64)>,
}

/// The seed of all metadata checksums.
pub(super) fn seed(options: &Options) -> u32 {
    checksum(!0, &options.uuid)
}

/// The copy that is in `group`.
pub(super) fn encode(plan: &Plan, totals: &Totals, options: &Options, group: u64) -> [u8; SIZE] {
    let mut raw = [0; SIZE];
    let time = options.time.clamp(0, i64::from(u32::MAX)) as u32;
    put32(&mut raw, 0, plan.inodes_per_group * plan.groups as u32);
    put32_split(&mut raw, 4, 336, plan.blocks);
    put32_split(&mut raw, 12, 344, totals.free_blocks);
    put32(&mut raw, 16, totals.free_inodes);
    put32(&mut raw, 24, 2);
    put32(&mut raw, 28, 2);
    put32(&mut raw, 32, BLOCKS_PER_GROUP as u32);
    put32(&mut raw, 36, BLOCKS_PER_GROUP as u32);
    put32(&mut raw, 40, plan.inodes_per_group);
    put32(&mut raw, 48, time);
    put16(&mut raw, 54, u16::MAX);
    put16(&mut raw, 56, 0xef53);
    put16(&mut raw, 58, 1);
    put16(&mut raw, 60, 1);
    put32(&mut raw, 64, time);
    put32(&mut raw, 76, 1);
    put32(&mut raw, 84, FIRST_INODE);
    put16(&mut raw, 88, INODE_SIZE as u16);
    put16(&mut raw, 90, group as u16);
    let journal = if totals.journal.is_some() {
        HAS_JOURNAL
    } else {
        0
    };
    put32(&mut raw, 92, EXT_ATTR | DIR_INDEX | journal);
    let large_dir = if totals.large_dir { LARGE_DIR } else { 0 };
    put32(
        &mut raw,
        96,
        FILETYPE | META_BG | EXTENTS | BITS_64 | FLEX_BG | large_dir,
    );
    let read_only = SPARSE_SUPER | LARGE_FILE | HUGE_FILE | DIR_NLINK | EXTRA_ISIZE | METADATA_CSUM;
    put32(&mut raw, 100, read_only);
    raw[104..120].copy_from_slice(&options.uuid);
    raw[120..][..options.label.len()].copy_from_slice(options.label.as_bytes());
    if let Some((i_block, size)) = totals.journal {
        put32(&mut raw, 224, JOURNAL_INODE);
        raw[253] = 1;
        raw[268..328].copy_from_slice(&i_block);
        put32(&mut raw, 328, (size >> 32) as u32);
        put32(&mut raw, 332, size as u32);
    }
    raw[236..252].copy_from_slice(&options.hash_seed);
    // Half MD4 over unsigned bytes.
    raw[252] = 1;
    put32(&mut raw, 352, 2);
    put16(&mut raw, 254, DESCRIPTOR as u16);
    // user_xattr and acl, mke2fs's defaults.
    put32(&mut raw, 256, 0x0c);
    put32(&mut raw, 264, time);
    put16(&mut raw, 348, 32);
    put16(&mut raw, 350, 32);
    // Sixteen groups to a flexible one.
    raw[372] = 4;
    raw[373] = 1;
    let sum = checksum(!0, &raw[..1020]);
    put32(&mut raw, 1020, sum);
    raw
}

/// The journal's own superblock: empty, version 2. Kernel documentation, ext4: "Journal (jbd2)".
pub(super) fn journal(blocks: u32) -> [u8; SIZE] {
    let mut raw = [0; SIZE];
    let mut put = |at: usize, value: u32| raw[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0, 0xc03b_3998);
    put(4, 4);
    put(12, crate::data::BLOCK as u32);
    put(16, blocks);
    put(20, 1);
    put(24, 1);
    put(64, 1);
    raw
}
