//! The step between the monitor and the VMM: `banger-monitor --exec-vmm <parent> <program> …`.
//!
//! A process of its own, because what has to be done between fork and exec (PR_SET_PDEATHSIG above
//! all) can then be done in safe code. Its standard output is the report: nothing when the exec
//! succeeded, else why not.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;

use crate::log::Log;

/// The argument that selects this mode.
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

/// Starts the VMM; returns once it is executed. It inherits every inheritable descriptor.
pub(crate) fn spawn(program: &Path, arguments: &[String], log: &Log) -> Result<Child, SpawnError> {
    let mut child = Command::new("/proc/self/exe")
        .arg0("banger-monitor")
        .arg(MODE)
        .arg(std::process::id().to_string())
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

/// The hidden mode: becomes the VMM or reports why it cannot.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    // The copy is close-on-exec; standard output itself becomes the log.
    let Ok(report) = io::stdout().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let error = become_vmm(arguments);
    let _ = write!(File::from(report), "{error}");
    ExitCode::FAILURE
}

fn become_vmm(arguments: &[OsString]) -> io::Error {
    let [parent, program, rest @ ..] = arguments else {
        return io::Error::other("wrong arguments");
    };
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
