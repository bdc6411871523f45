//! Where a command's output goes on the host.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

/// What is written after one `POLLOUT`: a pipe that polls writable takes this much without
/// blocking, whatever its flags (pipe(7), PIPE_BUF).
const STEP: usize = 4096;

/// Receives output.
#[derive(Default)]
pub enum Sink<'a> {
    /// A descriptor: written when it is ready, so that a slow reader does not stop signals.
    Fd(BorrowedFd<'a>),
    /// A writer that does not block, such as a buffer or a file.
    Writer(&'a mut dyn Write),
    /// Thrown away.
    #[default]
    Null,
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sink::Fd(fd) => f.debug_tuple("Fd").field(fd).finish(),
            Sink::Writer(_) => f.write_str("Writer"),
            Sink::Null => f.write_str("Null"),
        }
    }
}

/// A sink with what it has not taken yet.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    sink: Sink<'a>,
    bytes: VecDeque<u8>,
}

/// The reader of the output is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

impl<'a> Pending<'a> {
    pub(crate) fn new(sink: Sink<'a>) -> Self {
        Pending {
            sink,
            bytes: VecDeque::new(),
        }
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The descriptor to poll for writing, while bytes wait.
    pub(crate) fn polled(&self) -> Option<BorrowedFd<'a>> {
        match self.sink {
            Sink::Fd(fd) if !self.bytes.is_empty() => Some(fd),
            _ => None,
        }
    }

    /// Takes output.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<Result<(), Closed>> {
        match &mut self.sink {
            Sink::Null => Ok(Ok(())),
            Sink::Writer(writer) => match writer.write_all(bytes).and_then(|()| writer.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Err(self.close())),
                other => other.map(Ok),
            },
            Sink::Fd(_) => {
                self.bytes.extend(bytes);
                Ok(Ok(()))
            }
        }
    }

    /// Writes a piece of what waits; call it when the descriptor polls writable.
    pub(crate) fn write(&mut self) -> io::Result<Result<(), Closed>> {
        let Some(fd) = self.polled() else {
            return Ok(Ok(()));
        };
        let front = self.bytes.as_slices().0;
        match nix::unistd::write(fd, &front[..front.len().min(STEP)]) {
            Ok(written) => {
                self.bytes.drain(..written);
                Ok(Ok(()))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Ok(())),
            Err(Errno::EPIPE) => Ok(Err(self.close())),
            Err(error) => Err(error.into()),
        }
    }

    fn close(&mut self) -> Closed {
        self.sink = Sink::Null;
        self.bytes.clear();
        Closed
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_closed_reader_is_told_and_then_swallows() {
        let (read, write) = nix::unistd::pipe().unwrap();
        drop(read);
        let mut pending = Pending::new(Sink::Fd(write.as_fd()));
        assert_eq!(pending.push(b"x").unwrap(), Ok(()));
        assert_eq!(pending.write().unwrap(), Err(Closed));
        assert_eq!(pending.push(b"y").unwrap(), Ok(()));
        assert_eq!((pending.len(), pending.polled().is_none()), (0, true));
    }
}
