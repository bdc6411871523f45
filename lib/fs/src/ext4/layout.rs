//! Where things are: block groups, reserved places, and the size of the whole.
//!
//! `meta_bg` puts each group's descriptors and their copies at places that do not depend on the
//! size, so content can stream in before the size is known; `flex_bg` lets bitmaps and inode
//! tables follow the content. Kernel documentation, ext4: "Layout", "Flexible Block Groups", "Meta
//! Block Groups".

use std::ops::Range;

use crate::data::BLOCK;
use crate::{Options, SizeChoice};

pub(super) const BLOCKS_PER_GROUP: u64 = 8 * BLOCK as u64;
pub(super) const INODE_SIZE: usize = 256;
pub(super) const INODES_PER_BLOCK: u32 = (BLOCK / INODE_SIZE) as u32;
pub(super) const DESCRIPTOR: usize = 64;
/// Groups whose descriptors share a block.
pub(super) const META_GROUP: u64 = (BLOCK / DESCRIPTOR) as u64;
/// As many bits as one bitmap block has.
const MAX_INODES_PER_GROUP: u64 = 8 * BLOCK as u64;
/// The size is a multiple of this, so that the last group is never tiny.
const ROUND: u64 = 256;
/// Below this the kernel's smallest journal would not leave much.
const MIN_JOURNAL_FS: u64 = 2048;

/// Whether the group starts with a copy of the superblock (`sparse_super`).
pub(super) fn has_super(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

/// Whether the group holds a copy of its meta group's descriptors: the first two and the last do.
pub(super) fn has_descriptors(group: u64) -> bool {
    matches!(group % META_GROUP, 0 | 1 | 63)
}

/// Reserved blocks at the start of a group.
pub(super) fn head(group: u64) -> u64 {
    u64::from(has_super(group)) + u64::from(has_descriptors(group))
}

/// See [`crate::data::Usable`].
pub(crate) fn usable(block: u64) -> Range<u64> {
    let mut group = block / BLOCKS_PER_GROUP;
    let start = block.max(group * BLOCKS_PER_GROUP + head(group));
    loop {
        group += 1;
        if head(group) > 0 {
            return start..group * BLOCKS_PER_GROUP;
        }
    }
}

/// The numbers everything else follows from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) inodes_per_group: u32,
    /// Zero for none.
    pub(super) journal: u32,
}

impl Plan {
    pub(super) fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group / INODES_PER_BLOCK)
    }

    pub(super) fn group_blocks(&self, group: u64) -> Range<u64> {
        let start = group * BLOCKS_PER_GROUP;
        start..(start + BLOCKS_PER_GROUP).min(self.blocks)
    }

    fn for_blocks(blocks: u64, next: u64, inodes: u64, options: &Options) -> Plan {
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let room = blocks.saturating_sub(next) * BLOCK as u64;
        let spare = room / options.bytes_per_inode.max(BLOCK as u64);
        let wanted = inodes + 16 + spare.max(inodes / 64);
        let each = wanted
            .div_ceil(groups)
            .next_multiple_of(u64::from(INODES_PER_BLOCK));
        // Inode numbers have 32 bits.
        let countable = (u64::from(u32::MAX) / groups) & !u64::from(INODES_PER_BLOCK - 1);
        Plan {
            blocks,
            groups,
            inodes_per_group: each.min(MAX_INODES_PER_GROUP).min(countable) as u32,
            journal: if options.journal {
                journal_blocks(blocks)
            } else {
                0
            },
        }
    }

    /// First block after all metadata when it is laid out from `next` on.
    fn end(&self, next: u64) -> u64 {
        // The journal's extent blocks: one for each 340 extents of at most a group.
        let tree = if self.journal > 0 { 2 } else { 0 };
        let mut at = spread(next, u64::from(self.journal) + tree + 2 * self.groups);
        for _ in 0..self.groups {
            at = run(at, self.table_blocks());
        }
        at
    }

    /// Chooses a size for content that ends at `next`, with `free` free blocks below it, and
    /// `inodes` inodes. The error is the number of bytes needed.
    pub(super) fn choose(
        next: u64,
        free: u64,
        inodes: u64,
        options: &Options,
    ) -> Result<Plan, u64> {
        let block = BLOCK as u64;
        let floor = match options.journal {
            true => MIN_JOURNAL_FS,
            false => ROUND,
        };
        let groups = inodes.div_ceil(MAX_INODES_PER_GROUP).max(1);
        let floor = floor.max((groups - 1) * BLOCKS_PER_GROUP + ROUND);
        let (mut blocks, slack) = match options.size {
            SizeChoice::Fit => (0, ROUND + next / 50),
            SizeChoice::AtLeast(bytes) => (bytes.div_ceil(block), 16),
            SizeChoice::Free(bytes) => (0, 16 + bytes.div_ceil(block).saturating_sub(free)),
            SizeChoice::Scaled { percent, at_least } => {
                let spare = u64::from(percent.saturating_sub(100));
                (at_least.div_ceil(block), ROUND + next * spare / 100)
            }
            SizeChoice::Exactly(bytes) => {
                let mut blocks = bytes / block;
                // A last group with little more than its head is not worth having.
                if blocks % BLOCKS_PER_GROUP < 16 {
                    blocks -= blocks % BLOCKS_PER_GROUP;
                }
                let exact = Plan::for_blocks(blocks.max(1), next, inodes, options);
                let holds = u64::from(exact.inodes_per_group) * exact.groups >= inodes;
                if blocks > 64 && holds && exact.end(next) <= blocks {
                    return Ok(exact);
                }
                (0, 0)
            }
        };
        blocks = blocks.max(floor).next_multiple_of(ROUND);
        loop {
            let plan = Plan::for_blocks(blocks, next, inodes, options);
            let needed = plan.end(next) + slack;
            if needed <= blocks {
                return match options.size {
                    SizeChoice::Exactly(_) => Err(blocks * block),
                    _ => Ok(plan),
                };
            }
            blocks = needed.next_multiple_of(ROUND);
        }
    }
}

fn spread(mut at: u64, mut blocks: u64) -> u64 {
    while blocks > 0 {
        let room = usable(at);
        let n = blocks.min(room.end - room.start);
        at = room.start + n;
        blocks -= n;
    }
    at
}

fn run(mut at: u64, blocks: u64) -> u64 {
    loop {
        let room = usable(at);
        if room.end - room.start >= blocks {
            return room.start + blocks;
        }
        at = room.end;
    }
}

/// The sizes mke2fs(8) chooses, in blocks of 4 KiB.
fn journal_blocks(blocks: u64) -> u32 {
    match blocks {
        0..2_048 => 0,
        2_048..32_768 => 1_024,
        32_768..262_144 => 4_096,
        262_144..524_288 => 8_192,
        524_288..4_194_304 => 16_384,
        4_194_304..8_388_608 => 32_768,
        8_388_608..16_777_216 => 65_536,
        16_777_216..33_554_432 => 131_072,
        _ => 262_144,
    }
}
