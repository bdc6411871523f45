//! One call's connection whose stream is not frames alone: reads and writes that wait for the guest and
//! for the user's wish to end, whichever comes first.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_wire::agent::{CallError, kind};
use banger_wire::frame::{Decoder, Frame};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::guest::parse;

/// A guest that neither takes nor sends anything for so long is stuck.
const STALL: Duration = Duration::from_secs(120);
/// Far away, and yet no instant that cannot be.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const BUFFER: usize = 256 * 1024;

/// A connection; the socket does not block.
pub struct Wire<'a> {
    stream: UnixStream,
    interrupt: Option<BorrowedFd<'a>>,
    stall: Duration,
    /// What the guest said while we wrote.
    decoder: Decoder,
    /// Why the last read or write failed, when that is no error of the socket.
    why: Option<Error>,
    /// What came behind the frames.
    early: Vec<u8>,
    early_taken: usize,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(stream: UnixStream, interrupt: Option<BorrowedFd<'a>>) -> Result<Self> {
        stream
            .set_nonblocking(true)
            .map_err(Error::host("setting up the connection"))?;
        Ok(Wire {
            stream,
            interrupt,
            stall: STALL,
            decoder: Decoder::default(),
            why: None,
            early: Vec::new(),
            early_taken: 0,
        })
    }

    /// Sends a call and waits until the guest has begun with it.
    pub(crate) fn begin(&mut self, call: &[u8], patience: Duration) -> Result<()> {
        self.stall = patience;
        let begun = self
            .write_all(call)
            .map_err(|error| self.explain(error))
            .and_then(|()| self.frame());
        self.stall = STALL;
        match begun?.kind {
            kind::STARTED => {}
            other => return Err(Error::Protocol(format!("a beginning of kind {other}"))),
        }
        self.early = self.decoder.take_rest();
        Ok(())
    }

    /// What follows are frames, and the guest may be silent for as long as it likes in between; that its
    /// VM has ended is still told.
    pub(crate) fn listen(&mut self) {
        self.take_early();
        self.stall = FOR_EVER;
    }

    /// The guest's next frame; its `ERROR` is ours.
    pub(crate) fn frame(&mut self) -> Result<Frame> {
        let mut buffer = vec![0; 4096];
        self.take_early();
        loop {
            let next = self.decoder.next_frame();
            if let Some(frame) = next.map_err(|error| Error::Protocol(error.to_string()))? {
                return match frame.kind {
                    kind::ERROR => Err(Error::Call(parse::<CallError>(&frame.payload)?)),
                    _ => Ok(frame),
                };
            }
            match self.read_socket(&mut buffer) {
                Ok(0) => return Err(Error::ConnectionLost),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// A guest that fails at once says so right behind its first answer.
    fn take_early(&mut self) {
        let early = std::mem::take(&mut self.early);
        self.decoder
            .push(&early[std::mem::take(&mut self.early_taken)..]);
    }

    /// Says that we will send no more.
    pub(crate) fn finish(&self) -> Result<()> {
        self.stream
            .shutdown(std::net::Shutdown::Write)
            .map_err(|_| Error::ConnectionLost)
    }

    /// What an error of a read or write means.
    pub(crate) fn explain(&mut self, error: io::Error) -> Error {
        match self.why.take() {
            Some(why) => why,
            None if error.kind() == io::ErrorKind::InvalidData => {
                Error::Protocol(error.to_string())
            }
            None => Error::ConnectionLost,
        }
    }

    fn wait(&mut self, flags: PollFlags) -> io::Result<PollFlags> {
        let deadline = Instant::now() + self.stall;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.why = Some(Error::NoAnswer(self.stall));
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut polled = vec![PollFd::new(self.stream.as_fd(), flags)];
            polled.extend(self.interrupt.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            match poll(
                &mut polled,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            ) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            if polled.get(1).is_some_and(|fd| fd.any() == Some(true)) {
                self.why = Some(Error::Interrupted);
                return Err(io::Error::other("interrupted"));
            }
            if let Some(found) = polled[0].revents().filter(|found| !found.is_empty()) {
                return Ok(found);
            }
        }
    }

    fn read_socket(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLIN)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// What the guest says while we write can only be why it takes no more.
    fn hear(&mut self) -> io::Result<()> {
        self.take_early();
        self.heard()?;
        let mut buffer = vec![0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.decoder.push(&buffer[..count]);
                self.heard()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn heard(&mut self) -> io::Result<()> {
        match self.decoder.next_frame() {
            Ok(None) => Ok(()),
            Ok(Some(frame)) => {
                self.why = Some(match frame.kind {
                    kind::ERROR => match parse::<CallError>(&frame.payload) {
                        Ok(error) => Error::Call(error),
                        Err(error) => error,
                    },
                    other => Error::Protocol(format!("an early frame of kind {other}")),
                });
                Err(io::ErrorKind::BrokenPipe.into())
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let early = &self.early[self.early_taken..];
        if !early.is_empty() {
            let count = early.len().min(buffer.len());
            buffer[..count].copy_from_slice(&early[..count]);
            self.early_taken += count;
            return Ok(count);
        }
        self.read_socket(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(BUFFER)];
        loop {
            match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let found = self.wait(PollFlags::POLLIN | PollFlags::POLLOUT)?;
                    if found.contains(PollFlags::POLLIN) {
                        self.hear()?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What it said before it hung up is why.
                Err(error) => return self.hear().and(Err(error)),
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
