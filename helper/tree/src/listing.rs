//! What is in directories, without its content: enough to see later whether a file was changed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};

use crate::entry::Name;
use crate::error::{Result, TreeError};
use crate::place::DIRECTORY;

/// Fixed part of a listed entry on the wire, in bytes.
const FIXED: usize = 4 * 4 + 8 * 4 + 4 * 2;
/// Says that the next directory begins.
const NEXT: u16 = u16::MAX;
/// Says that the directory is not there or cannot be read.
const MISSING: u16 = u16::MAX - 1;

/// What stat(2) says about an entry, as far as it tells changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device of its file system, shortened.
    pub dev: u32,
    /// Inode.
    pub ino: u64,
    /// In bytes.
    pub size: u64,
    /// Last change of the content: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Last change of anything about it, which nobody sets.
    pub ctime: (i64, u32),
}

impl Listed {
    /// What a file system says.
    pub fn of(stat: &FileStat) -> Listed {
        let nanoseconds = |n: i64| u32::try_from(n).unwrap_or(0);
        Listed {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            dev: stat.st_dev as u32,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    /// It is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// It is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    /// It is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for word in [
            self.mode,
            self.uid,
            self.gid,
            self.dev,
            self.mtime.1,
            self.ctime.1,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.ino, self.size] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.mtime.0, self.ctime.0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8; FIXED]) -> Listed {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Listed {
            mode: word(0),
            uid: word(4),
            gid: word(8),
            dev: word(12),
            ino: long(24),
            size: long(32),
            mtime: (long(40).cast_signed(), word(16)),
            ctime: (long(48).cast_signed(), word(20)),
        }
    }
}

/// Opens a directory below `root` without following a link on the way.
///
/// # Errors
/// Those of openat(2); ELOOP or ENOTDIR for a link.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &[Name]) -> nix::Result<OwnedFd> {
    let mut directory = root.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    for name in path {
        directory = openat(&directory, name.as_bytes(), DIRECTORY, Mode::empty())?;
    }
    Ok(directory)
}

/// Appends what is in each of the directories to `out`, which is emptied by `flush` when it is long.
///
/// # Errors
/// Those of `flush`. A directory that cannot be read is told to the peer.
pub(crate) fn list(
    root: BorrowedFd<'_>,
    directories: &[Vec<Name>],
    mut flush: impl FnMut(&mut Vec<u8>, bool) -> Result<()>,
) -> Result<()> {
    let mut out = Vec::new();
    for path in directories {
        out.extend_from_slice(&NEXT.to_le_bytes());
        let listing = open_below(root, path).and_then(|directory| {
            // Opened again: a directory that was only passed on has a position that others share.
            let own = openat(
                &directory,
                c".",
                DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            Dir::from_fd(own)
        });
        let Ok(mut listing) = listing else {
            out.extend_from_slice(&MISSING.to_le_bytes());
            continue;
        };
        let Ok(directory) = listing.as_fd().try_clone_to_owned() else {
            out.extend_from_slice(&MISSING.to_le_bytes());
            continue;
        };
        for child in listing.iter() {
            let Ok(child) = child else {
                out.extend_from_slice(&MISSING.to_le_bytes());
                break;
            };
            let file = child.file_name();
            let name = file.to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Ok(stat) = fstatat(&directory, file, AtFlags::AT_SYMLINK_NOFOLLOW) else {
                // Removed meanwhile.
                continue;
            };
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            Listed::of(&stat).encode(&mut out);
            out.extend_from_slice(name);
            flush(&mut out, false)?;
        }
        flush(&mut out, false)?;
    }
    flush(&mut out, true)
}

/// Reads a listing that somebody hostile may have written.
#[derive(Debug, Default)]
pub(crate) struct ListingDecoder {
    rest: Vec<u8>,
    /// Directories that have begun.
    begun: usize,
    /// The last of them cannot be read.
    missing: bool,
}

/// A piece of a listing.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next of the directories that were asked for begins.
    Directory,
    /// It cannot be read, or not to its end.
    Missing,
    /// An entry of it.
    Entry(Name, Listed),
}

impl ListingDecoder {
    /// Takes bytes, and gives each whole piece to `take`. `most` is how many directories were asked for.
    ///
    /// # Errors
    /// What breaks the protocol; those of `take`.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        most: usize,
        mut take: impl FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.rest[at..].first_chunk::<2>() {
            let word = u16::from_le_bytes(*head);
            if word == NEXT {
                self.begun += 1;
                if self.begun > most {
                    return Err(TreeError::Protocol("more directories than were asked for"));
                }
                self.missing = false;
                take(Piece::Directory)?;
                at += 2;
                continue;
            }
            if self.begun == 0 {
                return Err(TreeError::Protocol("an entry of no directory"));
            }
            if self.missing {
                return Err(TreeError::Protocol(
                    "more of a directory that cannot be read",
                ));
            }
            if word == MISSING {
                self.missing = true;
                take(Piece::Missing)?;
                at += 2;
                continue;
            }
            let length = usize::from(word);
            // The name is checked before it is waited for.
            if length > 255 {
                return Err(TreeError::Protocol("a name that is longer than names are"));
            }
            let end = at + 2 + FIXED + length;
            let Some(body) = self.rest.get(at + 2..end) else {
                break;
            };
            let (fixed, name) = body.split_at(FIXED);
            let Some(fixed) = fixed.first_chunk::<FIXED>() else {
                break;
            };
            take(Piece::Entry(Name::try_from(name)?, Listed::decode(fixed)))?;
            at = end;
        }
        self.rest.drain(..at);
        Ok(())
    }

    /// The listing is at its end.
    ///
    /// # Errors
    /// When a part is missing.
    pub(crate) fn finish(self, asked: usize) -> Result<()> {
        match self.rest.is_empty() && self.begun == asked {
            true => Ok(()),
            false => Err(TreeError::Protocol("a listing that ends early")),
        }
    }
}
