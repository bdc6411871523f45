//! `alive.lock`: an open file description lock (fcntl_locking(2)) that the monitor holds and the
//! VMM inherits, so it falls exactly when both are gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use banger_failpoint::point;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;

/// The held lock.
#[derive(Debug)]
pub(crate) struct AliveLock(Option<File>);

impl AliveLock {
    /// Takes the lock; `None` when somebody holds it. Creates the file, changes nothing else.
    pub(crate) fn take(path: &Path) -> io::Result<Option<AliveLock>> {
        point("monitor.lock")?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(Some(AliveLock(Some(file)))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the VMM inherit it, or not.
    pub(crate) fn set_inheritable(&self, inheritable: bool) -> io::Result<()> {
        self.0
            .as_ref()
            .map_or(Ok(()), |file| set_inheritable(file, inheritable))
    }

    /// Lets go; the lock falls unless a child still has it.
    pub(crate) fn release(&mut self) {
        self.0 = None;
    }
}

/// Lets children inherit a descriptor, or not.
pub(crate) fn set_inheritable(fd: impl AsFd, inheritable: bool) -> io::Result<()> {
    let flags = if inheritable {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}
