//! Signals as something to read (signalfd(2)): no handler, and no pipe from it.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Signals that wait to be read.
#[derive(Debug)]
pub(crate) struct Signals(AsyncFd<SignalFd>);

impl Signals {
    /// From now on these do nothing but wait to be read, in this thread and those that it starts; commands start without
    /// that. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Those of signalfd(2) and epoll_ctl(2).
    pub(crate) fn new(signals: &[Signal]) -> io::Result<Signals> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&set, flags)?;
        Ok(Signals(sys::watch_signals(descriptor)?))
    }

    /// Waits for the next one; several of one kind may be one.
    ///
    /// # Errors
    /// Those of epoll_wait(2) and read(2).
    pub(crate) async fn next(&self) -> io::Result<Signal> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.0.get_ref().read_signal()? {
                Some(information) => {
                    return Ok(Signal::try_from(information.ssi_signo.cast_signed())?);
                }
                None => ready.clear_ready(),
            }
        }
    }
}
