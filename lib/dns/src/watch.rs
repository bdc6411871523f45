//! Follows the file of names: the kernel tells when it is replaced (inotify(7)).
//!
//! It is the directory that is watched, because the file is another one each time. A directory that is not
//! there yet is waited for in the nearest one above it that is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Whatever may have put another file there.
const IN_DIRECTORY: AddWatchFlags = AddWatchFlags::IN_MOVED_TO
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Whatever may have put a directory there.
const ABOVE: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// A watch on one file.
#[derive(Debug)]
pub(crate) struct Watch {
    file: PathBuf,
    descriptor: Option<AsyncFd<Handle>>,
    /// The directory of the file is what is watched, not one above.
    is_direct: bool,
}

#[derive(Debug)]
pub(crate) struct Handle(Inotify);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// From now on, nothing is missed.
    ///
    /// # Errors
    /// Those of inotify_init1(2) and inotify_add_watch(2).
    pub(crate) fn new(file: &Path) -> io::Result<Watch> {
        let mut watch = Watch {
            file: file.to_owned(),
            descriptor: None,
            is_direct: false,
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits until the file may be another one.
    ///
    /// # Errors
    /// As [`Watch::new`].
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            if self.wait().await? {
                return Ok(());
            }
        }
    }

    async fn wait(&mut self) -> io::Result<bool> {
        let Some(descriptor) = &self.descriptor else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let name = self.file.file_name();
        let mut ready = descriptor.readable().await?;
        let events = match ready.try_io(|handle| Ok(handle.get_ref().0.read_events()?)) {
            Ok(events) => events?,
            Err(_) => return Ok(false),
        };
        drop(ready);
        let gone = AddWatchFlags::IN_IGNORED
            .union(AddWatchFlags::IN_DELETE_SELF)
            .union(AddWatchFlags::IN_MOVE_SELF)
            .union(AddWatchFlags::IN_Q_OVERFLOW);
        let is_lost = events.iter().any(|event| event.mask.intersects(gone));
        if !self.is_direct || is_lost {
            // A new descriptor has no events of the old directory.
            self.arm()?;
            return Ok(self.is_direct);
        }
        Ok(events.iter().any(|event| event.name.as_deref() == name))
    }

    /// Watches the directory of the file, or the nearest one above it that is there.
    fn arm(&mut self) -> io::Result<()> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        let mut armed = None;
        for above in directory.ancestors() {
            let direct = above == directory;
            let flags = if direct { IN_DIRECTORY } else { ABOVE };
            match inotify.add_watch(above, flags) {
                Ok(_) => {
                    armed = Some((above, direct));
                    break;
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (above, direct) = armed.ok_or(io::ErrorKind::NotFound)?;
        self.descriptor = Some(sys::watched(Handle(inotify))?);
        self.is_direct = direct;
        // It may have been made between the failure and the watch.
        let next = directory
            .ancestors()
            .take_while(|path| *path != above)
            .last();
        if next.is_some_and(Path::is_dir) {
            return self.arm();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    async fn seen(watch: &mut Watch) {
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, watch.changed())
            .await
            .expect("the kernel tells")
            .unwrap();
    }

    #[tokio::test]
    async fn a_file_is_followed_wherever_its_directory_went() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("a/b");
        let file = directory.join("names.json");
        let mut watch = Watch::new(&file).unwrap();
        fs::create_dir_all(&directory).unwrap();
        seen(&mut watch).await;
        let replace = || {
            fs::write(directory.join("new"), "x").unwrap();
            fs::rename(directory.join("new"), &file).unwrap();
        };
        for _ in 0..3 {
            replace();
            seen(&mut watch).await;
        }
        fs::remove_dir_all(base.path().join("a")).unwrap();
        fs::create_dir_all(&directory).unwrap();
        seen(&mut watch).await;
        replace();
        seen(&mut watch).await;
    }
}
