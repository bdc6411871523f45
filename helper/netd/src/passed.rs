//! Descriptors that a caller passed: what each must be. They stand where paths would, so that the caller's own
//! rights decided what could be opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use banger_proto::{Code, Refusal};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{UnixAddr, getpeername};
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::journal::Kept;
use crate::network::failed;
use crate::peer::Peer;
use crate::sys;

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Written at its end.
    Append,
    ReadWrite,
}

/// A regular file of the caller's, that nobody else can write, open as it is needed.
///
/// # Errors
/// The first of that which it is not.
pub(crate) fn file(
    what: &str,
    descriptor: OwnedFd,
    peer: &Peer,
    access: Access,
) -> Result<File, Refusal> {
    let (status, mode) = look(what, &descriptor)?;
    if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(invalid(what, "no regular file"));
    }
    if status.st_uid != peer.uid {
        return Err(invalid(what, "not the caller's own"));
    }
    if status.st_mode & 0o022 != 0 {
        return Err(invalid(what, "writable by others"));
    }
    let mode = mode & OFlag::O_ACCMODE;
    let fits = match access {
        Access::Read => mode == OFlag::O_RDONLY || mode == OFlag::O_RDWR,
        Access::Append => mode == OFlag::O_WRONLY || mode == OFlag::O_RDWR,
        Access::ReadWrite => mode == OFlag::O_RDWR,
    };
    if !fits {
        let how = match access {
            Access::Read => "not open for reading",
            Access::Append => "not open for writing",
            Access::ReadWrite => "not open for reading and writing",
        };
        return Err(invalid(what, how));
    }
    Ok(File::from(descriptor))
}

/// A connected socket.
///
/// # Errors
/// When it is none.
pub(crate) fn socket(what: &str, descriptor: OwnedFd) -> Result<OwnedFd, Refusal> {
    let (status, _) = look(what, &descriptor)?;
    if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err(invalid(what, "no socket"));
    }
    // Only what is connected has another side (getpeername(2)).
    if getpeername::<UnixAddr>(descriptor.as_raw_fd()).is_err() {
        return Err(invalid(what, "not connected"));
    }
    Ok(descriptor)
}

/// The tap of the VM itself.
///
/// # Errors
/// When it is another one's, or no tap.
pub(crate) fn tap(descriptor: OwnedFd, kept: &Kept) -> Result<OwnedFd, Refusal> {
    let name = sys::tap_name(&descriptor).map_err(|_| invalid("the tap", "no tap"))?;
    if name != kept.interface().as_str() {
        return Err(invalid("the tap", "another VM's"));
    }
    Ok(descriptor)
}

fn look(what: &str, descriptor: &OwnedFd) -> Result<(FileStat, OFlag), Refusal> {
    let seen = || -> io::Result<_> {
        let flags = fcntl(descriptor.as_fd(), FcntlArg::F_GETFL)?;
        Ok((fstat(descriptor)?, OFlag::from_bits_truncate(flags)))
    };
    let (status, flags) = seen().map_err(failed(format!("look at {what}")))?;
    if flags.contains(OFlag::O_PATH) {
        return Err(invalid(what, "not open for anything (O_PATH)"));
    }
    Ok((status, flags))
}

fn invalid(what: &str, why: &str) -> Refusal {
    Refusal::new(Code::Invalid, format!("{what} that came is {why}"))
        .hint("pass files that you own and that only you can write")
}
