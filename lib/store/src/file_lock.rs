//! Open file description locks (fcntl(2), F_OFD_SETLK): they fall when the last descriptor closes,
//! whatever kills the process that held it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use banger_failpoint::point;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

/// A lock on a whole file, held as long as this value (or an inherited descriptor) lives.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Opens the file, making it, without following a link. Nothing is locked yet.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        point("lock.open")?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        Ok(FileLock(file))
    }

    /// Takes the lock if nobody holds it; the file is made when it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened, or is a link.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let lock = FileLock::open(path)?;
        Ok(lock.try_lock()?.then_some(lock))
    }

    /// Whether somebody holds the lock, without taking it; nobody holds a missing file.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path) else {
            return false;
        };
        let mut lock = whole_file();
        match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
            Ok(_) => i32::from(lock.l_type) != libc::F_UNLCK,
            Err(_) => false,
        }
    }

    /// Waits until nobody holds the lock.
    ///
    /// # Errors
    /// When the file cannot be opened or locked; a missing file is not an error.
    pub fn wait_free(path: &Path) -> io::Result<()> {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => FileLock(file).lock(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn try_lock(&self) -> io::Result<bool> {
        point("lock.take")?;
        match fcntl(&self.0, FcntlArg::F_OFD_SETLK(&whole_file())) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn lock(&self) -> io::Result<()> {
        loop {
            match fcntl(&self.0, FcntlArg::F_OFD_SETLKW(&whole_file())) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The open file description, to be inherited: the lock is held until the last copy is closed.
    pub fn into_file(self) -> File {
        self.0
    }

    /// From a description that was locked by who gave it to us.
    pub fn from_locked(file: File) -> Self {
        FileLock(file)
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.0
    }

    /// The locked file is still the one that the path names.
    pub fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.0.metadata(), std::fs::symlink_metadata(path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_and_not_taken() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("alive.lock");
        assert!(!FileLock::is_held(&path), "a missing file is not locked");
        FileLock::wait_free(&path).unwrap();
        let holder = FileLock::try_take(&path).unwrap().unwrap();
        assert!(FileLock::is_held(&path));
        assert!(FileLock::is_held(&path), "looking does not take it");
        assert!(FileLock::try_take(&path).unwrap().is_none());
        let inherited = holder.0.try_clone().unwrap();
        drop(holder);
        assert!(
            FileLock::is_held(&path),
            "a duplicate descriptor keeps the lock"
        );
        drop(inherited);
        assert!(!FileLock::is_held(&path));
        FileLock::wait_free(&path).unwrap();
    }
}
