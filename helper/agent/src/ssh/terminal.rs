//! A session's terminal, with the modes of the client's own (RFC 4254, section 8).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use banger_wire::agent::TerminalSize;
use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices as Index, Termios,
    tcgetattr, tcsetattr,
};
use russh::Pty;

use super::inputs::Terminal;
use crate::sys;

/// The character that means "none" in the protocol; 0 in Linux (termios(3), _POSIX_VDISABLE).
const DISABLED: u32 = 255;

/// A size as the protocol has it.
pub(super) fn size(columns: u32, rows: u32) -> TerminalSize {
    let clamp = |number| u16::try_from(number).unwrap_or(u16::MAX);
    TerminalSize {
        rows: clamp(rows),
        columns: clamp(columns),
    }
}

/// Opens a terminal for this process's user.
///
/// # Errors
/// Those of posix_openpt(3) and open(2).
pub(super) fn open(kind: &str, size: TerminalSize, modes: &[(Pty, u32)]) -> io::Result<Terminal> {
    let master =
        posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname_r(&master)?;
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(&name)?;
    let mut termios = tcgetattr(&slave)?;
    for (mode, value) in modes {
        apply(&mut termios, *mode, *value);
    }
    tcsetattr(&slave, SetArg::TCSANOW, &termios)?;
    sys::resize(slave.as_fd(), size)?;
    let safe = kind.len() <= 64 && kind.bytes().all(|byte| byte.is_ascii_graphic());
    Ok(Terminal {
        master: master.into(),
        slave,
        name,
        kind: if safe { kind } else { "dumb" }.to_owned(),
    })
}

/// Sets one mode; what Linux does not have is left out.
fn apply(termios: &mut Termios, mode: Pty, value: u32) {
    let index = match mode {
        Pty::VINTR => Index::VINTR,
        Pty::VQUIT => Index::VQUIT,
        Pty::VERASE => Index::VERASE,
        Pty::VKILL => Index::VKILL,
        Pty::VEOF => Index::VEOF,
        Pty::VEOL => Index::VEOL,
        Pty::VEOL2 => Index::VEOL2,
        Pty::VSTART => Index::VSTART,
        Pty::VSTOP => Index::VSTOP,
        Pty::VSUSP => Index::VSUSP,
        Pty::VREPRINT => Index::VREPRINT,
        Pty::VWERASE => Index::VWERASE,
        Pty::VLNEXT => Index::VLNEXT,
        Pty::VDISCARD => Index::VDISCARD,
        _ => return apply_flag(termios, mode, value != 0),
    };
    let character = if value == DISABLED { 0 } else { value };
    termios.control_chars[index as usize] = u8::try_from(character).unwrap_or(0);
}

fn apply_flag(termios: &mut Termios, mode: Pty, on: bool) {
    let input = match mode {
        Pty::IGNPAR => InputFlags::IGNPAR,
        Pty::PARMRK => InputFlags::PARMRK,
        Pty::INPCK => InputFlags::INPCK,
        Pty::ISTRIP => InputFlags::ISTRIP,
        Pty::INLCR => InputFlags::INLCR,
        Pty::IGNCR => InputFlags::IGNCR,
        Pty::ICRNL => InputFlags::ICRNL,
        Pty::IXON => InputFlags::IXON,
        Pty::IXANY => InputFlags::IXANY,
        Pty::IXOFF => InputFlags::IXOFF,
        Pty::IMAXBEL => InputFlags::IMAXBEL,
        Pty::IUTF8 => InputFlags::IUTF8,
        _ => InputFlags::empty(),
    };
    termios.input_flags.set(input, on);
    let local = match mode {
        Pty::ISIG => LocalFlags::ISIG,
        Pty::ICANON => LocalFlags::ICANON,
        Pty::ECHO => LocalFlags::ECHO,
        Pty::ECHOE => LocalFlags::ECHOE,
        Pty::ECHOK => LocalFlags::ECHOK,
        Pty::ECHONL => LocalFlags::ECHONL,
        Pty::NOFLSH => LocalFlags::NOFLSH,
        Pty::TOSTOP => LocalFlags::TOSTOP,
        Pty::IEXTEN => LocalFlags::IEXTEN,
        Pty::ECHOCTL => LocalFlags::ECHOCTL,
        Pty::ECHOKE => LocalFlags::ECHOKE,
        _ => LocalFlags::empty(),
    };
    termios.local_flags.set(local, on);
    let output = match mode {
        Pty::OPOST => OutputFlags::OPOST,
        Pty::ONLCR => OutputFlags::ONLCR,
        Pty::OCRNL => OutputFlags::OCRNL,
        Pty::ONOCR => OutputFlags::ONOCR,
        Pty::ONLRET => OutputFlags::ONLRET,
        _ => OutputFlags::empty(),
    };
    termios.output_flags.set(output, on);
}
