//! Inode records of 256 bytes. Kernel documentation, ext4: "Index Nodes".

use super::extents::Root;
use super::layout::INODE_SIZE;
use super::xattrs::IN_INODE_AT;
use crate::checksum::crc32c as checksum;
use crate::put::{put16, put16_split, put32};
use crate::tree::Text;

/// Bytes of fields beyond the first 128.
const EXTRA: u16 = 32;
const INDEX: u32 = 0x1000;
const EXTENTS: u32 = 0x8_0000;
/// Targets shorter than this are in the inode.
pub(super) const FAST_SYMLINK: u64 = 60;
const EARLIEST: i64 = i32::MIN as i64;
/// 34 bits of seconds, of which the lower 32 are signed.
const LATEST: i64 = (1 << 34) + i32::MIN as i64 - 1;

/// What the inode's block field holds.
#[derive(Clone, Copy)]
pub(super) enum Blocks {
    Extents(Root),
    /// A target kept in the inode.
    Target(Text),
    Device {
        major: u32,
        minor: u32,
    },
    Nothing,
}

/// One record before it is encoded.
pub(super) struct Record<'a> {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) links: u16,
    pub(super) seconds: i64,
    pub(super) nanos: u32,
    /// Blocks of the file, of its extent tree and its attribute block.
    pub(super) blocks: u64,
    pub(super) indexed: bool,
    pub(super) attribute_block: u64,
    pub(super) attributes: Option<&'a [u8; INODE_SIZE - IN_INODE_AT]>,
}

impl Record<'_> {
    /// The bytes of the record; `target` is a fast symbolic link's.
    pub(super) fn encode(&self, blocks: &Blocks, target: &[u8], seed: u32) -> [u8; INODE_SIZE] {
        let mut raw = [0; INODE_SIZE];
        put16(&mut raw, 0, self.mode);
        put16_split(&mut raw, 2, 120, self.uid);
        put16_split(&mut raw, 24, 122, self.gid);
        put32(&mut raw, 4, self.size as u32);
        put32(&mut raw, 108, (self.size >> 32) as u32);
        put16(&mut raw, 26, self.links);
        let sectors = self.blocks * 8;
        put32(&mut raw, 28, sectors as u32);
        put16(&mut raw, 116, (sectors >> 32) as u16);
        let (seconds, extra) = time(self.seconds, self.nanos);
        for (at, extra_at) in [(8, 140), (12, 132), (16, 136), (144, 148)] {
            put32(&mut raw, at, seconds);
            put32(&mut raw, extra_at, extra);
        }
        let mut flags = if self.indexed { INDEX } else { 0 };
        match blocks {
            Blocks::Extents(root) => {
                flags |= EXTENTS;
                raw[40..100].copy_from_slice(&root.i_block);
            }
            Blocks::Target(_) => raw[40..40 + target.len()].copy_from_slice(target),
            // The old form where it is enough, as the kernel does.
            Blocks::Device { major, minor } if *major < 256 && *minor < 256 => {
                put32(&mut raw, 40, major << 8 | minor);
            }
            Blocks::Device { major, minor } => {
                put32(
                    &mut raw,
                    44,
                    (minor & 0xff) | major << 8 | (minor & !0xff) << 12,
                );
            }
            Blocks::Nothing => {}
        }
        put32(&mut raw, 32, flags);
        put32(&mut raw, 104, self.attribute_block as u32);
        put16(&mut raw, 118, (self.attribute_block >> 32) as u16);
        put16(&mut raw, 128, EXTRA);
        if let Some(attributes) = self.attributes {
            raw[IN_INODE_AT..].copy_from_slice(attributes);
        }
        let sum = checksum(seed, &raw);
        put16_split(&mut raw, 124, 130, sum);
        raw
    }
}

/// The seed of all checksums of one inode and its blocks; generations are zero.
pub(super) fn seed(fs_seed: u32, number: u32) -> u32 {
    checksum(checksum(fs_seed, &number.to_le_bytes()), &[0; 4])
}

/// Seconds and the extra field: two more bits of seconds, then nanoseconds. Times out of range
/// become the nearest that is in.
fn time(seconds: i64, nanos: u32) -> (u32, u32) {
    let clamped = seconds.clamp(EARLIEST, LATEST);
    let nanos = if clamped == seconds { nanos } else { 0 };
    let low = clamped as i32;
    let epoch = ((clamped - i64::from(low)) >> 32) as u32;
    (low as u32, nanos << 2 | epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_34_bits() {
        let cases = [
            (0, 0, (0, 0)),
            (-1, 5, (u32::MAX, 5 << 2)),
            (i64::from(i32::MAX), 0, (0x7fff_ffff, 0)),
            (1 << 31, 0, (0x8000_0000, 1)),
            (1 << 32, 1, (0, 5)),
            (LATEST, 0, (0x7fff_ffff, 3)),
            (i64::MAX, 7, (0x7fff_ffff, 3)),
            (i64::MIN, 7, (0x8000_0000, 0)),
        ];
        for (seconds, nanos, expected) in cases {
            assert_eq!(time(seconds, nanos), expected, "{seconds}");
        }
    }
}
