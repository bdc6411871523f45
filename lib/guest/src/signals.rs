//! What the caller wants of a running command while it runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use banger_wire::agent::TerminalSize;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::terminal::terminal_size;

/// One wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Send this signal to the command's process group.
    Signal(u8),
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// Give up: [`crate::Error::Interrupted`], and the guest ends the command.
    Abandon,
}

/// A source of wishes with a descriptor that polls readable when there is one.
pub trait Control {
    /// The descriptor to poll.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// The next wish, without blocking.
    ///
    /// # Errors
    /// The source failed; the exec fails with it.
    fn next_command(&mut self) -> io::Result<Option<Command>>;
}

/// How many interrupts a command may ignore before the caller is let go.
const PATIENCE: u32 = 3;

/// The process's own signals as wishes: SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on,
/// SIGWINCH becomes a resize. The third SIGINT or SIGTERM gives up.
///
/// The signals are blocked in the thread that made this until it is dropped, so make it in the main
/// thread before there are others.
#[derive(Debug)]
pub struct Signals {
    source: SignalFd,
    before: SigSet,
    terminal: Option<OwnedFd>,
    interrupts: u32,
}

impl Signals {
    /// Takes the signals over; `terminal` is the one whose size SIGWINCH is about.
    ///
    /// # Errors
    /// Those of signalfd(2).
    pub fn take(terminal: Option<BorrowedFd<'_>>) -> io::Result<Signals> {
        let signals = SigSet::from_iter([
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGWINCH,
        ]);
        let terminal = terminal.map(|t| t.try_clone_to_owned()).transpose()?;
        let source =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before))?;
        Ok(Signals {
            source,
            before,
            terminal,
            interrupts: 0,
        })
    }
}

impl Control for Signals {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }

    fn next_command(&mut self) -> io::Result<Option<Command>> {
        while let Some(received) = self.source.read_signal()? {
            let number = received.ssi_signo as i32;
            if number == Signal::SIGWINCH as i32 {
                if let Some(size) = self.terminal.as_ref().and_then(terminal_size) {
                    return Ok(Some(Command::Resize(size)));
                }
                continue;
            }
            if number == Signal::SIGINT as i32 || number == Signal::SIGTERM as i32 {
                self.interrupts += 1;
                if self.interrupts >= PATIENCE {
                    return Ok(Some(Command::Abandon));
                }
            }
            return Ok(Some(Command::Signal(number as u8)));
        }
        Ok(None)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_passed_on_and_the_third_interrupt_gives_up() {
        let mut signals = Signals::take(None).unwrap();
        let send = |signal| {
            let thread = nix::sys::pthread::pthread_self();
            nix::sys::pthread::pthread_kill(thread, signal).unwrap();
        };
        assert_eq!(signals.next_command().unwrap(), None);
        for (signal, expected) in [
            (Signal::SIGINT, Command::Signal(2)),
            (Signal::SIGHUP, Command::Signal(1)),
            (Signal::SIGTERM, Command::Signal(15)),
            (Signal::SIGINT, Command::Abandon),
        ] {
            send(signal);
            assert_eq!(signals.next_command().unwrap(), Some(expected));
        }
        send(Signal::SIGWINCH);
        assert_eq!(signals.next_command().unwrap(), None);
    }
}
