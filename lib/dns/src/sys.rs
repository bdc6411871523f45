//! The steps that neither std nor others offer safely. Unsafe code: this module only.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;

use crate::watch::Handle;

/// Takes over a descriptor that the parent process passed by number, which is not closed: it is closed
/// with the process.
///
/// # Errors
/// `EBADF` when it is not open.
pub(crate) fn passed_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow lasts for one fcntl(2), which fails cleanly when the number is not open.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Lets the runtime wait for inotify.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn watched(handle: Handle) -> io::Result<AsyncFd<Handle>> {
    // SAFETY: a `Handle` owns its descriptor, always says the same one, and closes it only when dropped.
    Ok(unsafe { AsyncFd::register(handle) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_number_is_refused() {
        assert!(passed_descriptor(99_999).is_err());
    }
}
