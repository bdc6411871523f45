//! Attributes of files: size, owner, permissions, times (draft-ietf-secsh-filexfer-02, section 5).

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, truncate};

use super::error::Error;
use super::packet::{Reader, long, number};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;
/// What a mode may say (chmod(2)).
const MODE: u32 = 0o7777;

/// What a client wants a file to have.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    size: Option<u64>,
    owner: Option<(u32, u32)>,
    permissions: Option<u32>,
    /// Of the last access and the last change, in seconds since 1970.
    times: Option<(u32, u32)>,
}

impl Attributes {
    /// # Errors
    /// The request is too short.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Attributes, Error> {
        let flags = reader.number()?;
        let mut attributes = Attributes::default();
        if flags & SIZE != 0 {
            attributes.size = Some(reader.long()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((reader.number()?, reader.number()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(reader.number()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((reader.number()?, reader.number()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..reader.number()? {
                reader.bytes()?;
                reader.bytes()?;
            }
        }
        Ok(attributes)
    }

    /// The mode of a file to be made.
    pub(super) fn mode(&self, default: u32) -> u32 {
        self.permissions.map_or(default, |mode| mode & MODE)
    }

    /// Changes what has this path, or the link itself.
    ///
    /// # Errors
    /// The first system call that failed; those before it are done.
    pub(super) fn set(&self, path: &Path, follow: bool) -> Result<(), Error> {
        if let Some(size) = self.size {
            if !follow {
                return Err(Error::Message);
            }
            let size = size.try_into().map_err(|_| Error::Message)?;
            truncate(path, size)?;
        }
        if let Some((uid, gid)) = self.owner {
            let flags = match follow {
                true => AtFlags::empty(),
                false => AtFlags::AT_SYMLINK_NOFOLLOW,
            };
            fchownat(
                AT_FDCWD,
                path,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                flags,
            )?;
        }
        if let Some(mode) = self.permissions {
            let flags = match follow {
                true => FchmodatFlags::FollowSymlink,
                false => FchmodatFlags::NoFollowSymlink,
            };
            fchmodat(AT_FDCWD, path, Mode::from_bits_truncate(mode & MODE), flags)?;
        }
        if let Some((accessed, modified)) = self.times {
            let flags = match follow {
                true => UtimensatFlags::FollowSymlink,
                false => UtimensatFlags::NoFollowSymlink,
            };
            utimensat(AT_FDCWD, path, &time(accessed), &time(modified), flags)?;
        }
        Ok(())
    }

    /// Changes an open file.
    ///
    /// # Errors
    /// As [`Attributes::set`].
    pub(super) fn set_open(&self, file: &File) -> Result<(), Error> {
        if let Some(size) = self.size {
            file.set_len(size)?;
        }
        if let Some((uid, gid)) = self.owner {
            fchown(
                file.as_fd(),
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
            )?;
        }
        if let Some(mode) = self.permissions {
            fchmod(file.as_fd(), Mode::from_bits_truncate(mode & MODE))?;
        }
        if let Some((accessed, modified)) = self.times {
            futimens(file.as_fd(), &time(accessed), &time(modified))?;
        }
        Ok(())
    }
}

fn time(seconds: u32) -> TimeSpec {
    TimeSpec::new(seconds.into(), 0)
}

/// Appends a file's attributes.
pub(super) fn write(bytes: &mut Vec<u8>, metadata: &Metadata) {
    number(bytes, SIZE | OWNER | PERMISSIONS | TIMES);
    long(bytes, metadata.size());
    number(bytes, metadata.uid());
    number(bytes, metadata.gid());
    number(bytes, metadata.mode());
    // The protocol ends in 2106.
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    number(bytes, seconds(metadata.atime()));
    number(bytes, seconds(metadata.mtime()));
}

/// Appends attributes that say nothing.
pub(super) fn write_none(bytes: &mut Vec<u8>) {
    number(bytes, 0);
}
