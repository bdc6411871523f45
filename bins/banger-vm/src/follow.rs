//! Waiting for more to show: of a file that grows, of a VM that may end, or simply for some time.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use lib_cli::Failure;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

fn failed(errno: Errno) -> Failure {
    Failure::io("wait", errno.into())
}

/// Waits for so long; Ctrl-C ends the process as always.
///
/// # Errors
/// None that can be expected.
pub(crate) fn pause(time: Duration) -> Result<(), Failure> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        match poll(
            &mut [],
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// Tells of changes to the files in one directory (inotify(7)).
pub(crate) struct Changes(Inotify);

/// What happened in the directory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    /// How often a file was renamed to the name that is followed.
    pub(crate) renamed: usize,
}

impl Changes {
    /// Begins to watch; what happens from now on is told.
    ///
    /// # Errors
    /// No such directory; too many watches.
    pub(crate) fn of(directory: &Path) -> Result<Changes, Failure> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).map_err(failed)?;
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(directory, events).map_err(failed)?;
        Ok(Changes(inotify))
    }

    /// Waits for a change, or for `end` to become readable, which is told by `None`.
    ///
    /// # Errors
    /// None that can be expected.
    pub(crate) fn wait(
        &self,
        name: &str,
        end: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Changed>, Failure> {
        loop {
            let mut polled = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            polled.extend(end.map(|end| PollFd::new(end, PollFlags::POLLIN)));
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            if polled.get(1).is_some_and(|end| end.any() == Some(true)) {
                return Ok(None);
            }
            return self.take(name).map(Some);
        }
    }

    /// What has changed, without waiting.
    ///
    /// # Errors
    /// None that can be expected.
    pub(crate) fn take(&self, name: &str) -> Result<Changed, Failure> {
        let mut changed = Changed::default();
        loop {
            match self.0.read_events() {
                Ok(events) => {
                    changed.renamed += events
                        .iter()
                        .filter(|event| event.mask.contains(AddWatchFlags::IN_MOVED_TO))
                        .filter(|event| event.name.as_deref() == Some(name.as_ref()))
                        .count();
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(changed),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
}
