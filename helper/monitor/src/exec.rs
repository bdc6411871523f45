//! The step between the monitor and what it runs: `banger-monitor --exec-vmm <parent> <program> …`.
//!
//! A process of its own, because what has to be done between fork and exec (PR_SET_PDEATHSIG above
//! all) can then be done in safe code. Its standard output is the report: nothing when the exec
//! succeeded, else why not. A share's server has more to be done before (`share.rs`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;

use crate::log::Log;

/// The argument that selects the mode for a VMM.
pub(crate) const MODE: &str = "--exec-vmm";

const MAX_REPORT: u64 = 4096;

/// Why there is no VMM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("cannot start a process")]
    Spawn(#[source] io::Error),
    #[error("cannot execute {program}: {report}")]
    Exec { program: String, report: String },
}

/// Starts a program by way of a mode of ours, whose own arguments are `more`; returns once it is executed.
/// It inherits every inheritable descriptor.
pub(crate) fn spawn(
    mode: &str,
    more: &[OsString],
    program: &Path,
    arguments: &[String],
    log: &Log,
) -> Result<Child, SpawnError> {
    let mut child = Command::new("/proc/self/exe")
        .arg0("banger-monitor")
        .arg(mode)
        .arg(std::process::id().to_string())
        .args(more)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.file().try_clone().map_err(SpawnError::Spawn)?)
        .spawn()
        .map_err(SpawnError::Spawn)?;
    let mut report = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // The pipe ends with the exec; an error here would hide a VMM that runs.
        let _ = stdout.take(MAX_REPORT).read_to_end(&mut report);
    }
    if report.is_empty() {
        return Ok(child);
    }
    let _ = child.wait();
    Err(SpawnError::Exec {
        program: program.display().to_string(),
        report: String::from_utf8_lossy(&report).into_owned(),
    })
}

/// The hidden modes: `become_it` becomes a program or returns why it cannot, which is reported by the
/// descriptor that it is given.
pub(crate) fn run(
    arguments: &[OsString],
    become_it: impl FnOnce(&[OsString], RawFd) -> io::Error,
) -> ExitCode {
    // The copy is close-on-exec; standard output itself becomes the log.
    let Ok(report) = io::stdout().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let error = become_it(arguments, report.as_raw_fd());
    let _ = write!(File::from(report), "{error}");
    ExitCode::FAILURE
}

/// Becomes the VMM.
pub(crate) fn become_vmm(arguments: &[OsString], _report: RawFd) -> io::Error {
    match arguments {
        [parent, program, rest @ ..] => become_child(parent, program, rest),
        _ => io::Error::other("wrong arguments"),
    }
}

/// Becomes a program that dies with the monitor `parent`.
pub(crate) fn become_child(parent: &OsStr, program: &OsStr, rest: &[OsString]) -> io::Error {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return error.into();
    }
    // A monitor that died before the prctl sends no signal any more.
    let monitor = getppid().as_raw().to_string();
    if parent.to_str() != Some(&monitor) {
        return io::Error::other("the monitor is gone");
    }
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return error.into();
    }
    match io::stderr().as_fd().try_clone_to_owned() {
        // Sets SIGPIPE, the one signal that a Rust program ignores, back to its default.
        Ok(log) => Command::new(program).args(rest).stdout(log).exec(),
        Err(error) => error,
    }
}
