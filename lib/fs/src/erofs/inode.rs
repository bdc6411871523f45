//! Inode records, always the extended form, which has nanoseconds. Kernel: fs/erofs/erofs_fs.h.

use crate::put::{put16, put32, put64};
use crate::tree;

/// Bytes of a record.
pub(super) const SIZE: usize = 64;
/// Records begin at multiples of this, and their numbers count it.
pub(super) const SLOT: u64 = 32;

const EXTENDED: u16 = 1;

/// How the content of a file is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In blocks from this one on; devices, pipes and empty files have none.
    Plain(u32),
    /// Whole blocks from this one on, the rest behind the record.
    Inline(u32),
    /// An index of clusters behind the record; so many compressed blocks.
    Compressed(u32),
    /// A map of chunks of 2ⁿ blocks behind the record.
    Chunks(u8),
    /// The number of a device.
    Device(u32),
}

/// One record before it is encoded.
pub(super) struct Record {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) seconds: i64,
    pub(super) nanos: u32,
    /// For stat(2) of 32-bit programs only.
    pub(super) serial: u32,
    /// Bytes of extended attributes behind the record.
    pub(super) xattr_bytes: usize,
    pub(super) layout: Layout,
}

impl Record {
    /// The bytes of the record.
    pub(super) fn encode(&self) -> [u8; SIZE] {
        let mut raw = [0; SIZE];
        let (layout, union) = match self.layout {
            Layout::Plain(block) => (0, block),
            Layout::Device(number) => (0, number),
            Layout::Compressed(blocks) => (1, blocks),
            Layout::Inline(block) => (2, block),
            Layout::Chunks(bits) => (4, u32::from(bits)),
        };
        put16(&mut raw, 0, EXTENDED | layout << 1);
        // Counts the header of the attributes as one, and words behind it.
        let words = match self.xattr_bytes {
            0 => 0,
            bytes => (bytes - super::xattrs::HEADER) / 4 + 1,
        };
        put16(&mut raw, 2, words as u16);
        put16(&mut raw, 4, self.mode);
        put64(&mut raw, 8, self.size);
        put32(&mut raw, 16, union);
        put32(&mut raw, 20, self.serial);
        put32(&mut raw, 24, self.uid);
        put32(&mut raw, 28, self.gid);
        put64(&mut raw, 32, self.seconds.cast_unsigned());
        put32(&mut raw, 40, self.nanos);
        put32(&mut raw, LINKS_AT, self.links);
        raw
    }
}

/// Where a record has its count of names.
pub(super) const LINKS_AT: usize = 44;

/// A device number as the kernel's `new_encode_dev` has it.
pub(super) fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

/// The type field of a directory entry.
pub(super) fn file_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        tree::S_IFREG => 1,
        tree::S_IFDIR => 2,
        tree::S_IFCHR => 3,
        tree::S_IFBLK => 4,
        tree::S_IFIFO => 5,
        tree::S_IFLNK => 7,
        _ => 0,
    }
}
