//! What the monitor does to its own process: a session of its own, blocked signals, no inherited
//! descriptors.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, close, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// Signals that are blocked for good; all but SIGHUP and SIGPIPE are read from a signalfd.
pub(crate) fn handled_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT])
}

/// Detaches from whoever started the monitor. Descriptors above 2 that leaked in are closed, so
/// that neither the monitor nor the VMM keeps somebody's lock; those that are the VMM's stay.
pub(crate) fn isolate(keep: &[RawFd]) -> io::Result<()> {
    close_leaked_descriptors(keep)?;
    // EPERM: a process group leader cannot; it does not matter, SIGHUP is blocked.
    let _ = setsid();
    umask(Mode::from_bits_truncate(0o077));
    let mut blocked = handled_signals();
    blocked.add(Signal::SIGHUP);
    blocked.add(Signal::SIGPIPE);
    blocked.thread_block()?;
    if child_signal_ignored(&fs::read_to_string("/proc/self/status")?) {
        return Err(io::Error::other(
            "it was started with SIGCHLD ignored, so the end of the VMM could not be seen",
        ));
    }
    chdir("/")?;
    Ok(())
}

/// Closes all descriptors above 2 but those to keep.
pub(crate) fn close_leaked_descriptors(keep: &[RawFd]) -> io::Result<()> {
    let mut open: Vec<RawFd> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        if let Some(fd) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
            open.push(fd);
        }
    }
    for fd in open {
        if fd > 2 && !keep.contains(&fd) {
            // The directory's own number is in the list and closed already.
            let _ = close(fd);
        }
    }
    Ok(())
}

/// Goes back to the cgroups above those of the VM's own, and removes these. Where that cannot be done (no
/// processes may be in the one above, cgroups(7)), they stay until the VM is started again or deleted.
pub(crate) fn leave(cgroups: &[PathBuf]) {
    let own = std::process::id().to_string();
    for cgroup in cgroups {
        let above = cgroup.parent().unwrap_or(cgroup);
        let _ = fs::write(above.join("cgroup.procs"), &own);
        let _ = fs::remove_dir(cgroup);
    }
}

/// Closes the VMM's descriptors on our side, once it has them.
pub(crate) fn let_go(descriptors: &[RawFd]) {
    for fd in descriptors.iter().filter(|fd| **fd > 2) {
        // One that was never open is the VMM's to complain about.
        let _ = close(*fd);
    }
}

/// An ignored SIGCHLD survives exec and makes children vanish without a signal (signal(7)).
fn child_signal_ignored(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (Signal::SIGCHLD as u64 - 1)) != 0)
}

/// Ends the conversation with whoever started us; what we print from now on (a panic) goes to the log.
pub(crate) fn release_stdio(log: &File) -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(log)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_sigchld_is_seen() {
        assert!(child_signal_ignored(
            "Name:\tx\nSigIgn:\t0000000000010000\n"
        ));
        assert!(!child_signal_ignored(
            "Name:\tx\nSigIgn:\t0000000000001001\n"
        ));
        assert!(!child_signal_ignored(""));
    }
}
