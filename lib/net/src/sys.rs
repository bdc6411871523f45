//! The one step that neither std nor nix offers safely. Unsafe code: this module only.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that the kernel has just put into a control message (unix(7), SCM_RIGHTS).
pub(crate) fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: recvmsg(2) made this number for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}
