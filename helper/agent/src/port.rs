//! The byte channel to the host: the virtio-serial port, or a socket in tests.
//!
//! The port is watched through an epoll descriptor of its own, edge-triggered: a port whose host
//! side is closed reports a hang-up for as long as it lasts, and tokio never forgets a hang-up.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::uio::readv;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The most that the kernel's driver of the port gives at a time, in bytes: what the host wrote at a time, or part of it.
pub(crate) const PAGE: usize = 4096;
/// Read at once.
pub(crate) const PAGES: usize = 16;

/// What one attempt to read or write did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This many bytes.
    Moved(usize),
    /// Nothing now; wait for [`Port::changed`].
    Blocked,
    /// The host's side is closed.
    Closed,
}

/// A non-blocking channel.
#[derive(Debug)]
pub(crate) struct Port {
    file: OwnedFd,
    epoll: Epoll,
    /// Readable when `epoll` has something to tell.
    watch: AsyncFd<OwnedFd>,
    /// An end of file is the end, and not a pause.
    ends: bool,
}

impl Port {
    /// The virtio-serial port; needs a running tokio runtime.
    ///
    /// Its end of file is no event: the kernel learns that the host's side is open on another queue
    /// than its bytes, so a read may find the first bytes and then "closed". A host that begins anew
    /// is known by what it says ([`banger_wire::mux::begins_channel`]).
    ///
    /// # Errors
    /// Those of fcntl(2) and epoll(7).
    pub(crate) fn serial(file: OwnedFd) -> io::Result<Port> {
        Port::new(file, false)
    }

    /// A stream socket; needs a running tokio runtime.
    ///
    /// # Errors
    /// Those of fcntl(2) and epoll(7).
    pub(crate) fn socket(file: OwnedFd) -> io::Result<Port> {
        Port::new(file, true)
    }

    fn new(file: OwnedFd, ends: bool) -> io::Result<Port> {
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&file, EpollEvent::new(events, 0))?;
        let watch = sys::watch(epoll.0.try_clone()?, Interest::READABLE)?;
        Ok(Port {
            file,
            epoll,
            watch,
            ends,
        })
    }

    /// Reads what is there, at most [`PAGES`]: each is a read of its own to the driver, all in one system call.
    ///
    /// # Errors
    /// Those of readv(2).
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Step> {
        let mut chunks = buffer.chunks_mut(PAGE);
        let mut pages: [IoSliceMut<'_>; PAGES] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        match readv(&self.file, &mut pages) {
            Ok(0) if !self.ends => Ok(Step::Blocked),
            Ok(0) | Err(Errno::ECONNRESET) => Ok(Step::Closed),
            Ok(n) => Ok(Step::Moved(n)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Step::Blocked),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// Those of write(2).
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<Step> {
        match nix::unistd::write(self.file.as_fd(), bytes) {
            Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(Step::Blocked),
            Ok(n) => Ok(Step::Moved(n)),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(Step::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until reading or writing may do something new.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let mut guard = self.watch.readable().await?;
        let mut events = [EpollEvent::empty()];
        self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        guard.clear_ready();
        Ok(())
    }
}
