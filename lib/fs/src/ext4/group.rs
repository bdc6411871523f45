//! Block groups: bitmaps, descriptors and the copies of descriptors and superblock. Kernel
//! documentation, ext4: "Block Group Descriptors", "Block and Inode Bitmaps".

use std::io;
use std::ops::Range;

use super::layout::{
    BLOCKS_PER_GROUP, DESCRIPTOR, META_GROUP, Plan, has_descriptors, has_super, head,
};
use super::superblock;
use crate::checksum::crc32c as checksum;
use crate::data::{BLOCK, Data};
use crate::put::{put16, put16_split, put32_split};

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
/// Tables are holes or written: either way there is nothing for the kernel to zero.
const INODE_ZEROED: u16 = 4;

struct Group {
    block_bitmap: u64,
    inode_bitmap: u64,
    table: u64,
    free_blocks: u32,
    used_inodes: u32,
    directories: u32,
    block_sum: u32,
    inode_sum: u32,
    flags: u16,
}

pub(super) struct Groups<'p> {
    plan: &'p Plan,
    groups: Vec<Group>,
    /// Free runs in order; reserved places in the last one, beyond all allocated blocks, count as
    /// used.
    free: Vec<Range<u64>>,
}

impl<'p> Groups<'p> {
    pub(super) fn new(
        plan: &'p Plan,
        data: &Data<'_>,
        bitmaps: &[(u64, u64)],
        tables: &[u64],
    ) -> Self {
        let groups = bitmaps
            .iter()
            .zip(tables)
            .map(|(&(block_bitmap, inode_bitmap), &table)| Group {
                block_bitmap,
                inode_bitmap,
                table,
                free_blocks: 0,
                used_inodes: 0,
                directories: 0,
                block_sum: 0,
                inode_sum: 0,
                flags: INODE_ZEROED,
            })
            .collect();
        let mut free: Vec<_> = data.free_runs().collect();
        free.push(data.next()..plan.blocks);
        Groups { plan, groups, free }
    }

    pub(super) fn count_inode(&mut self, number: u32, directory: bool) {
        let group = &mut self.groups[((number - 1) / self.plan.inodes_per_group) as usize];
        group.used_inodes += 1;
        group.directories += u32::from(directory);
    }

    pub(super) fn free_blocks(&self) -> u64 {
        self.groups
            .iter()
            .map(|group| u64::from(group.free_blocks))
            .sum()
    }

    /// Writes the bitmaps of groups that have anything in them.
    pub(super) fn write_bitmaps(&mut self, data: &mut Data<'_>, seed: u32) -> io::Result<()> {
        let last = self.groups.len() - 1;
        let mut first_free = 0;
        for (number, group) in self.groups.iter_mut().enumerate() {
            let blocks = self.plan.group_blocks(number as u64);
            let mut bitmap = [0xff; BLOCK];
            while self.free[first_free].end <= blocks.start && first_free + 1 < self.free.len() {
                first_free += 1;
            }
            for run in &self.free[first_free..] {
                if run.start >= blocks.end {
                    break;
                }
                let start = run.start.max(blocks.start) - blocks.start;
                let end = run.end.min(blocks.end).saturating_sub(blocks.start);
                clear(&mut bitmap, start..end);
            }
            set(&mut bitmap, head(number as u64) as u32);
            group.free_blocks = bitmap.iter().map(|byte| byte.count_zeros()).sum();
            let own = (blocks.end - blocks.start) - head(number as u64);
            let untouched = u64::from(group.free_blocks) == own;
            if untouched && number != 0 && number != last {
                group.flags |= BLOCK_UNINIT;
            } else {
                group.block_sum = checksum(seed, &bitmap);
                data.write(group.block_bitmap, &bitmap)?;
            }
        }
        for group in &mut self.groups {
            if group.used_inodes == 0 {
                group.flags |= INODE_UNINIT;
                continue;
            }
            let mut bitmap = [0xff; BLOCK];
            let all = u64::from(self.plan.inodes_per_group);
            clear(&mut bitmap, u64::from(group.used_inodes)..all);
            group.inode_sum = checksum(seed, &bitmap[..all as usize / 8]);
            data.write(group.inode_bitmap, &bitmap)?;
        }
        Ok(())
    }

    /// Writes all copies of descriptors and superblock.
    pub(super) fn write_descriptors(
        &self,
        data: &mut Data<'_>,
        seed: u32,
        superblock: impl Fn(u64) -> [u8; superblock::SIZE],
    ) -> io::Result<()> {
        for number in 0..self.plan.groups {
            let mut at = number * BLOCKS_PER_GROUP;
            if has_super(number) {
                let mut block = [0; BLOCK];
                // The first 1,024 bytes of a disk belong to its boot loader.
                let offset = if number == 0 { 1024 } else { 0 };
                block[offset..][..superblock::SIZE].copy_from_slice(&superblock(number));
                data.write(at, &block)?;
                at += 1;
            }
            if has_descriptors(number) {
                data.write(at, &self.descriptors(number / META_GROUP, seed))?;
            }
        }
        Ok(())
    }

    fn descriptors(&self, meta_group: u64, seed: u32) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let first = (meta_group * META_GROUP) as usize;
        let groups = self
            .groups
            .iter()
            .enumerate()
            .skip(first)
            .take(META_GROUP as usize);
        for ((number, group), raw) in groups.zip(block.chunks_exact_mut(DESCRIPTOR)) {
            let inodes = self.plan.inodes_per_group;
            put32_split(raw, 0, 32, group.block_bitmap);
            put32_split(raw, 4, 36, group.inode_bitmap);
            put32_split(raw, 8, 40, group.table);
            put16_split(raw, 12, 44, group.free_blocks);
            put16_split(raw, 14, 46, inodes - group.used_inodes);
            put16_split(raw, 16, 48, group.directories);
            put16(raw, 18, group.flags);
            put16_split(raw, 24, 56, group.block_sum);
            put16_split(raw, 26, 58, group.inode_sum);
            // Inodes are used from the front, so the unused are those at the end of the table.
            put16_split(raw, 28, 50, inodes - group.used_inodes);
            let sum = checksum(checksum(seed, &(number as u32).to_le_bytes()), raw);
            put16(raw, 30, sum as u16);
        }
        block
    }
}

fn clear(bitmap: &mut [u8; BLOCK], bits: Range<u64>) {
    let mut at = bits.start;
    while at < bits.end {
        if at.is_multiple_of(8) && at + 8 <= bits.end {
            let bytes = (at / 8) as usize..(bits.end / 8) as usize;
            at = bits.end - bits.end % 8;
            bitmap[bytes].fill(0);
        } else {
            bitmap[(at / 8) as usize] &= !(1 << (at % 8));
            at += 1;
        }
    }
}

/// Sets the first bits, at most eight.
fn set(bitmap: &mut [u8; BLOCK], count: u32) {
    bitmap[0] |= ((1u32 << count) - 1) as u8;
}
