//! Ctrl-C while something is being made: what was staged is removed, then the signal ends the process as it
//! would have at once.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::pipe2;

/// As long as this lives, SIGINT, SIGTERM and SIGHUP remove what this process has staged before they end it.
///
/// Made by the main thread before there are others: they inherit its mask.
pub struct Tidy {
    before: SigSet,
    stop: Option<OwnedFd>,
    watcher: Option<JoinHandle<()>>,
}

impl Tidy {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or a thread.
    pub fn begin() -> io::Result<Tidy> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let source = SignalFd::with_flags(&signals, flags)?;
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let mut tidy = Tidy {
            before,
            stop: Some(stop),
            watcher: None,
        };
        let watcher = std::thread::Builder::new().name("signals".into());
        tidy.watcher = Some(watcher.spawn(move || watch(&source, &stopped))?);
        Ok(tidy)
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        // Closing its side of the pipe ends the watcher.
        self.stop = None;
        if let Some(watcher) = self.watcher.take() {
            // A watcher that panicked has nothing left to do.
            let _ = watcher.join();
        }
        // Only an invalid argument fails.
        let _ = self.before.thread_set_mask();
    }
}

fn watch(source: &SignalFd, stopped: &OwnedFd) {
    loop {
        let mut polled = [
            PollFd::new(source.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut polled, PollTimeout::NONE).is_err() {
            continue;
        }
        if let Ok(Some(signal)) = source.read_signal() {
            lib_store::abandon_staging();
            // Below the bars.
            let line = if io::stderr().is_terminal() { "\n" } else { "" };
            eprintln!(
                "{line}interrupted; nothing half made remains, and what was downloaded is kept"
            );
            end_by(signal.ssi_signo);
        }
        if polled[1].any().unwrap_or(true) {
            return;
        }
    }
}

/// Ends the process by the signal itself, so that a shell sees what happened.
fn end_by(number: u32) {
    let signal = i32::try_from(number)
        .ok()
        .and_then(|n| Signal::try_from(n).ok());
    let signal = signal.unwrap_or(Signal::SIGTERM);
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
}
