//! The user's terminal: raw mode that is always undone, and its size.
//!
//! Unsafe code: the ioctl that asks for the size; nix has no safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use banger_wire::agent::TerminalSize;
use nix::libc;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

nix::ioctl_read_bad!(get_winsize, libc::TIOCGWINSZ, libc::winsize);

/// The size of a terminal; `None` when it has none or is not a terminal.
pub fn terminal_size(terminal: impl AsFd) -> Option<TerminalSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the pointer is to a live winsize, which is what TIOCGWINSZ writes.
    unsafe { get_winsize(terminal.as_fd().as_raw_fd(), &mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// A terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Makes a terminal raw: every key, also Ctrl-C, goes to the guest.
    ///
    /// # Errors
    /// It is not a terminal.
    pub fn enter(terminal: impl AsFd) -> io::Result<RawTerminal> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(RawTerminal { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::termios::LocalFlags;

    use super::*;

    #[test]
    fn raw_mode_is_undone() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let echo = || {
            tcgetattr(&pty.slave)
                .unwrap()
                .local_flags
                .contains(LocalFlags::ECHO)
        };
        assert!(echo());
        let raw = RawTerminal::enter(&pty.slave).unwrap();
        assert!(!echo());
        drop(raw);
        assert!(echo());
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert!(RawTerminal::enter(&read).is_err());
        assert_eq!(terminal_size(&read), None);
    }
}
