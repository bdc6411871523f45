//! Client of a monitor's control socket, and waiting that Ctrl-C ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_failpoint::point;
use banger_wire::monitor::{ControlReply, ControlRequest, file};
use lib_store::{Context, Locks, VmRow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::VmError;
use crate::liveness::runtime;

const REPLY_LIMIT: usize = 1 << 20;

/// The user's wish to end, as a descriptor that can be waited for.
#[derive(Debug, Default)]
pub struct Interrupt {
    signals: Option<SignalFd>,
    before: Option<SigSet>,
}

impl Interrupt {
    /// Nothing interrupts.
    pub fn never() -> Self {
        Interrupt::default()
    }

    /// Until this is dropped, SIGINT, SIGTERM and SIGHUP do not end this process; they end its waits
    /// with [`VmError::Interrupted`], so that it can take back what it made.
    ///
    /// # Errors
    /// When the kernel refuses a signal descriptor.
    pub fn install() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Interrupt {
            signals: Some(signals),
            before: Some(before),
        })
    }

    /// Ends waits for these locks, too.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn ends_waits_for(&self, locks: &mut Locks) -> io::Result<()> {
        if let Some(signals) = &self.signals {
            locks.interrupted_by(signals.as_fd().try_clone_to_owned()?);
        }
        Ok(())
    }

    /// The descriptor, for others who poll.
    pub fn signals(&self) -> Option<&SignalFd> {
        self.signals.as_ref()
    }

    /// A signal has arrived; takes it.
    ///
    /// # Errors
    /// [`VmError::Interrupted`] if so.
    pub fn check(&self) -> Result<(), VmError> {
        match self.signals.as_ref().map(SignalFd::read_signal) {
            Some(Ok(Some(_))) => Err(VmError::Interrupted),
            _ => Ok(()),
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Only an invalid argument fails.
            let _ = before.thread_set_mask();
        }
    }
}

impl AsFd for Control {
    /// Readable when there is a reply, or the monitor is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A connection to the monitor of one VM.
pub struct Control {
    vm: String,
    stream: UnixStream,
    received: Vec<u8>,
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens: the monitor is gone, or not there yet.
    pub fn connect(context: &Context, vm: &VmRow) -> io::Result<Self> {
        point("control.connect")?;
        let stream = UnixStream::connect(runtime(context, vm).join(file::CONTROL_SOCKET))?;
        stream.set_nonblocking(true)?;
        Ok(Control {
            vm: vm.name.to_string(),
            stream,
            received: Vec::new(),
        })
    }

    /// Sends a request and waits for its reply; `None` when `patience` ended first.
    ///
    /// # Errors
    /// [`VmError::Interrupted`]; [`VmError::Monitor`] when the monitor went away or talks nonsense.
    pub fn ask(
        &mut self,
        request: &ControlRequest,
        patience: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<Option<ControlReply>, VmError> {
        self.send(request)?;
        self.reply(patience, interrupt)
    }

    /// Sends a request whose reply comes later.
    ///
    /// # Errors
    /// [`VmError::Monitor`].
    pub fn send(&mut self, request: &ControlRequest) -> Result<(), VmError> {
        let failed = |source| VmError::Monitor {
            vm: self.vm.clone(),
            source,
        };
        let mut line = serde_json::to_vec(request).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        point("control.ask").map_err(failed)?;
        self.stream.write_all(&line).map_err(failed)
    }

    /// Waits for a further reply; see [`Control::ask`].
    ///
    /// # Errors
    /// As [`Control::ask`].
    pub fn reply(
        &mut self,
        patience: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<Option<ControlReply>, VmError> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            if let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|e| self.failed(e.into()));
            }
            if !self.wait(deadline, interrupt)? {
                return Ok(None);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) if self.received.len() + n > REPLY_LIMIT => {
                    return Err(self.failed(io::Error::other("its reply is too long")));
                }
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Whether there is something to read before the deadline.
    fn wait(&self, deadline: Option<Instant>, interrupt: &Interrupt) -> Result<bool, VmError> {
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    PollTimeout::try_from(left + Duration::from_millis(1))
                        .unwrap_or(PollTimeout::MAX)
                }
            };
            let mut polled = vec![PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            if let Some(signals) = interrupt.signals() {
                polled.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
            }
            let ready = match poll(&mut polled, timeout) {
                Ok(0) | Err(Errno::EINTR) => false,
                Ok(_) => polled[0].any().unwrap_or(true),
                Err(error) => return Err(self.failed(error.into())),
            };
            if ready {
                return Ok(true);
            }
            interrupt.check()?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
        }
    }

    fn failed(&self, source: io::Error) -> VmError {
        VmError::Monitor {
            vm: self.vm.clone(),
            source,
        }
    }
}
