//! Making entries in a directory that is held open, whole or not at all.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use banger_failpoint::point;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};
use xattr::FileExt;

use crate::entry::Entry;
use crate::error::{Result, TreeError};

/// For directories on the way: never through a link.
pub(crate) const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Something under a temporary name; gone when dropped before [`Temporary::publish`].
#[derive(Debug)]
pub(crate) struct Temporary<'a> {
    directory: BorrowedFd<'a>,
    name: CString,
    done: bool,
}

impl<'a> Temporary<'a> {
    /// Makes something by `make`, which must fail with EEXIST for a name that is there.
    pub(crate) fn make<T>(
        directory: BorrowedFd<'a>,
        make: impl Fn(BorrowedFd<'_>, &CString) -> nix::Result<T>,
    ) -> nix::Result<(Temporary<'a>, T)> {
        point("copy.create").map_err(|error| errno(&error))?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let text = format!(".banger-{}-{number}", std::process::id());
            let name = CString::new(text).map_err(|_| Errno::EINVAL)?;
            match make(directory, &name) {
                Err(Errno::EEXIST) => {}
                other => {
                    let made = other?;
                    let done = false;
                    let temporary = Temporary {
                        directory,
                        name,
                        done,
                    };
                    return Ok((temporary, made));
                }
            }
        }
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> BorrowedFd<'a> {
        self.directory
    }

    /// Gives it its name; what had the name before is replaced, unless it is a directory.
    pub(crate) fn publish(mut self, name: &CString) -> nix::Result<()> {
        point("copy.rename").map_err(|error| errno(&error))?;
        renameat(self.directory, &*self.name, self.directory, &**name)?;
        // rename(2) does nothing when both are names of one file.
        let _ = unlinkat(self.directory, &*self.name, UnlinkatFlags::NoRemoveDir);
        self.done = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = unlinkat(self.directory, &*self.name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A new file for nobody else.
pub(crate) fn new_file(directory: BorrowedFd<'_>, name: &CString) -> nix::Result<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    openat(directory, &**name, flags, mode).map(File::from)
}

/// Opens a directory in a directory, if it is one and no link.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &CString) -> nix::Result<OwnedFd> {
    openat(parent, &**name, DIRECTORY, Mode::empty())
}

/// What of an entry's metadata is taken over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Owner, special bits and all attributes, as far as permitted.
    pub(crate) archive: bool,
}

impl Keep {
    /// For a file or directory that is open.
    pub(crate) fn apply(self, file: &File, entry: &Entry) -> Result<()> {
        if self.archive {
            // Only root may; for others the files are theirs.
            let _ = fchown(
                file,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            );
        }
        for (name, value) in &entry.xattrs {
            if self.archive || name.starts_with(b"user.") {
                // File systems without attributes, and names that only root may set, do without.
                let _ = file.set_xattr(std::ffi::OsStr::from_bytes(name), value);
            }
        }
        let failed = |action| TreeError::file(action, entry.name.as_bytes());
        fchmod(file, self.mode(entry)).map_err(failed("change the mode of"))?;
        let time = time(entry);
        futimens(file, &time, &time).map_err(failed("set the time of"))
    }

    /// For a link or a pipe, which is not opened.
    pub(crate) fn apply_to_link(self, at: &Temporary<'_>, entry: &Entry) -> Result<()> {
        if self.archive {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let _ = fchownat(at.directory, &*at.name, Some(uid), Some(gid), flags);
        }
        let time = time(entry);
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(at.directory, &*at.name, &time, &time, flags)
            .map_err(TreeError::file("set the time of", entry.name.as_bytes()))
    }

    /// Without `archive` nobody else's rights are gained by running what was copied.
    pub(crate) fn mode(self, entry: &Entry) -> Mode {
        let mask = if self.archive { 0o7777 } else { 0o777 };
        Mode::from_bits_truncate(entry.mode & mask)
    }
}

fn time(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.0, entry.mtime.1.into())
}

/// `directory` for a caller that wants to pass it on.
pub(crate) fn as_file(directory: &OwnedFd) -> io::Result<File> {
    Ok(File::from(directory.as_fd().try_clone_to_owned()?))
}
