//! A data disk that was made larger: its file system follows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sys;

/// Of the superblock, in the kernel's documentation (filesystems/ext4/super.rst).
mod superblock {
    pub(super) const AT: u64 = 1024;
    pub(super) const BLOCKS_LOW: usize = 0x4;
    pub(super) const LOG_BLOCK_SIZE: usize = 0x18;
    pub(super) const BLOCKS_HIGH: usize = 0x150;
    pub(super) const LENGTH: usize = 0x400;
}

/// Grows the ext4 file system mounted at `root` to the end of `device`. Returns whether it was smaller.
///
/// # Errors
/// When the device cannot be read, or the kernel refuses.
pub(super) fn grow(device: &Path, root: &Path) -> io::Result<bool> {
    let disk = File::open(device)?;
    let mut bytes = [0; superblock::LENGTH];
    disk.read_exact_at(&mut bytes, superblock::AT)?;
    let size = size(&bytes);
    let length = io::Seek::seek(&mut &disk, io::SeekFrom::End(0))?;
    let wanted = length / size.block;
    if wanted <= size.blocks {
        return Ok(false);
    }
    sys::grow_ext4(&File::open(root)?, wanted)?;
    Ok(true)
}

#[derive(Debug, PartialEq, Eq)]
struct Size {
    blocks: u64,
    block: u64,
}

fn size(superblock: &[u8; superblock::LENGTH]) -> Size {
    let word = |at: usize| {
        let bytes = [
            superblock[at],
            superblock[at + 1],
            superblock[at + 2],
            superblock[at + 3],
        ];
        u64::from(u32::from_le_bytes(bytes))
    };
    Size {
        blocks: word(superblock::BLOCKS_LOW) | word(superblock::BLOCKS_HIGH) << 32,
        // 64 KiB is the largest there is; a damaged number must not overflow the shift.
        block: 1024 << word(superblock::LOG_BLOCK_SIZE).min(6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read_from_both_halves() {
        let mut bytes = [0; superblock::LENGTH];
        bytes[superblock::BLOCKS_LOW] = 5;
        bytes[superblock::BLOCKS_HIGH] = 1;
        bytes[superblock::LOG_BLOCK_SIZE] = 2;
        let expected = Size {
            blocks: (1 << 32) + 5,
            block: 4096,
        };
        assert_eq!(size(&bytes), expected);
    }
}
