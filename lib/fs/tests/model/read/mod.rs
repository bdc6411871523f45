//! Readers of file systems that share nothing with the writers: made from the kernel's
//! documentation, to see what is on the disk.

#![allow(dead_code, unreachable_pub)]

pub mod erofs;
pub mod ext4;

use std::collections::BTreeMap;

/// One file as the disk has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Number of the inode: equal for names of one file.
    pub inode: u64,
    pub links: u32,
    pub what: What,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    /// By full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Device(bool, u32, u32),
    Fifo,
}

/// By path; the root is the empty one.
pub type Files = BTreeMap<Vec<u8>, Seen>;

pub fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Major and minor of the kernel's 32-bit form.
pub fn device(number: u32) -> (u32, u32) {
    (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & !0xff),
    )
}

/// The full name of an attribute of a name space that file systems number alike.
pub fn attribute_name(index: u8, name: &[u8]) -> Vec<u8> {
    let prefix: &[u8] = match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        other => panic!("name space {other}"),
    };
    [prefix, name].concat()
}
