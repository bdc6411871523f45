//! Why a request failed, in the protocol's few words.

use std::io;

use nix::errno::Errno;

/// Status codes (draft-ietf-secsh-filexfer-02, section 7).
pub(super) mod code {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const BAD_MESSAGE: u32 = 5;
    pub(crate) const UNSUPPORTED: u32 = 8;
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Error {
    /// Nothing is left.
    End,
    /// The request is not whole, or makes no sense.
    Message,
    /// Nobody knows what it asks for.
    Unsupported,
    /// No such handle, or too many.
    Handle,
    /// A system call.
    System(Errno),
}

impl Error {
    pub(super) fn code(&self) -> u32 {
        match self {
            Error::End => code::EOF,
            Error::Message => code::BAD_MESSAGE,
            Error::Unsupported => code::UNSUPPORTED,
            Error::Handle => code::FAILURE,
            Error::System(errno) => match errno {
                Errno::ENOENT | Errno::ENOTDIR | Errno::EBADF | Errno::ELOOP => code::NO_SUCH_FILE,
                Errno::EPERM | Errno::EACCES | Errno::EFAULT | Errno::EROFS => {
                    code::PERMISSION_DENIED
                }
                Errno::ENAMETOOLONG | Errno::EINVAL => code::BAD_MESSAGE,
                Errno::ENOSYS => code::UNSUPPORTED,
                _ => code::FAILURE,
            },
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::End => f.write_str("End of file"),
            Error::Message => f.write_str("Bad message"),
            Error::Unsupported => f.write_str("Operation unsupported"),
            Error::Handle => f.write_str("Bad or too many handles"),
            Error::System(errno) => f.write_str(errno.desc()),
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::System(errno)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::System(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}
