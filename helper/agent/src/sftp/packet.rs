//! Packets: a big-endian `u32` of the length, a kind, and fields (draft-ietf-secsh-filexfer-02, section 3).

use std::io;

use super::error::{Error, code};

/// Longest packet without its length, in bytes; OpenSSH's own limit.
pub(super) const MAX_PACKET: usize = 256 * 1024;
/// Longest piece of a file in one packet.
pub(super) const MAX_DATA: usize = MAX_PACKET - 1024;
/// The version that everybody speaks.
const VERSION: u32 = 3;

/// Kinds of packets.
pub(super) mod kind {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const VERSION: u8 = 2;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const SETSTAT: u8 = 9;
    pub(crate) const FSETSTAT: u8 = 10;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const REALPATH: u8 = 16;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const READLINK: u8 = 19;
    pub(crate) const SYMLINK: u8 = 20;
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED: u8 = 200;
    pub(crate) const EXTENDED_REPLY: u8 = 201;
}

/// Extensions and their versions.
const EXTENSIONS: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("users-groups-by-id@openssh.com", "1"),
];

/// The first packet in `bytes`, without its length; `None` when it is not whole.
///
/// # Errors
/// It is empty or too long.
pub(super) fn next(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if !(1..=MAX_PACKET).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(rest.get(..length))
}

/// Fields of a request, one after the other.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// # Errors
    /// The request is too short, as with the others.
    pub(super) fn number(&mut self) -> Result<u32, Error> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Error::Message)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    pub(super) fn long(&mut self) -> Result<u64, Error> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Error::Message)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Error::Message)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Appends one packet, whose fields `fill` adds.
pub(super) fn packet(answers: &mut Vec<u8>, kind: u8, id: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = answers.len();
    answers.extend([0; 4]);
    answers.push(kind);
    number(answers, id);
    fill(answers);
    let length = (answers.len() - start - 4) as u32;
    answers[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

pub(super) fn number(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_be_bytes());
}

pub(super) fn long(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend(number.to_be_bytes());
}

pub(super) fn string(bytes: &mut Vec<u8>, string: &[u8]) {
    number(bytes, string.len() as u32);
    bytes.extend(string);
}

pub(super) fn status(answers: &mut Vec<u8>, id: u32, code: u32, message: &str) {
    packet(answers, kind::STATUS, id, |bytes| {
        number(bytes, code);
        string(bytes, message.as_bytes());
        string(bytes, b"");
    });
}

pub(super) fn done(answers: &mut Vec<u8>, id: u32) {
    status(answers, id, code::OK, "Success");
}

pub(super) fn version(answers: &mut Vec<u8>) {
    // The version is where other packets have their id.
    packet(answers, kind::VERSION, VERSION, |bytes| {
        for (name, version) in EXTENSIONS {
            string(bytes, name.as_bytes());
            string(bytes, version.as_bytes());
        }
    });
}
