//! A data disk that was made larger: its file system follows, at a boot or while it is in use.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use banger_wire::config;

use super::disk;
use super::root::Hidden;
use super::uevent::wait_for;
use crate::sys;

/// For the kernel to hear of a disk's new size, which the host says before it asks.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of the superblock, in the kernel's documentation (filesystems/ext4/super.rst).
mod superblock {
    pub(super) const AT: u64 = 1024;
    pub(super) const BLOCKS_LOW: usize = 0x4;
    pub(super) const LOG_BLOCK_SIZE: usize = 0x18;
    pub(super) const BLOCKS_HIGH: usize = 0x150;
    pub(super) const LENGTH: usize = 0x400;
}

/// The disk below the root, for when the host makes it larger.
#[derive(Debug)]
pub(crate) struct Growing {
    serial: String,
    /// A directory of the file system.
    root: File,
}

impl Growing {
    /// None for a root that is no disk of its own: the device mapper's is made at the boot.
    ///
    /// # Errors
    /// When the root cannot be opened.
    pub(super) fn of(root: &config::Root, hidden: &Hidden) -> io::Result<Option<Growing>> {
        let (serial, root) = match (root, hidden.disks.first()) {
            (config::Root::Overlay { data, .. }, Some(directory)) => {
                (data.serial.clone(), directory.try_clone()?)
            }
            (config::Root::Disk { image }, _) => (image.serial.clone(), File::open("/")?),
            _ => return Ok(None),
        };
        Ok(Some(Growing { serial, root }))
    }

    /// Waits until the disk has `bytes`, and grows the file system to its end. Blocks.
    ///
    /// # Errors
    /// `TimedOut` when the disk stays as it is; those of [`grow`].
    pub(crate) fn follow(&self, bytes: u64) -> io::Result<()> {
        let device = disk::find(&self.serial)
            .map_err(|error| io::Error::new(io::ErrorKind::NotFound, error.to_string()))?;
        wait_for(PATIENCE, || {
            Ok((length(&File::open(&device)?)? >= bytes).then_some(()))
        })?;
        grow(&device, &self.root).map(drop)
    }
}

fn length(disk: &File) -> io::Result<u64> {
    io::Seek::seek(&mut &*disk, io::SeekFrom::End(0))
}

/// Grows the ext4 file system of which `root` is a directory to the end of `device`. Returns whether it
/// was smaller.
///
/// # Errors
/// When the device cannot be read, or the kernel refuses.
pub(super) fn grow(device: &Path, root: &File) -> io::Result<bool> {
    let disk = File::open(device)?;
    let mut bytes = [0; superblock::LENGTH];
    disk.read_exact_at(&mut bytes, superblock::AT)?;
    let size = size(&bytes);
    let wanted = length(&disk)? / size.block;
    if wanted <= size.blocks {
        return Ok(false);
    }
    sys::grow_ext4(root, wanted)?;
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
