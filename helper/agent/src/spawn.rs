//! Turns an [`Exec`] and the image's defaults into a running process.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use banger_wire::agent::{CallError, CallErrorKind, Exec, TerminalSize};
use banger_wire::config::Process;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};
use nix::unistd::{Gid, Uid, pipe2};

use crate::account::{self, Account};
use crate::role::{Role, role};
use crate::sys::{self, Child, Stage, Standard};
use crate::{command, console, loopback};

/// Where programs are when the image does not say.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes under way to a process of our own program.
const IN_FLIGHT: usize = 1 << 20;

/// A started command and our ends of its input and output, all non-blocking.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) ends: Ends,
}

/// Our ends of a command's input and output.
#[derive(Debug)]
pub(crate) enum Ends {
    /// Pipes; no `stdin` when it is `/dev/null`.
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// The master of its terminal.
    Terminal(OwnedFd),
}

/// A command resolved in the image, not yet started.
#[derive(Debug)]
struct Plan {
    file: PathBuf,
    arguments: Vec<String>,
    environment: Vec<String>,
    directory: String,
    account: Account,
}

/// Starts a command with pipes or a terminal; the caller must reap `pid`.
///
/// # Errors
/// Why it cannot run, for the caller's exit status.
pub(crate) fn spawn(exec: &Exec, defaults: &Process) -> Result<Spawned, CallError> {
    let (pid, ends) = start(exec, defaults, || connect(exec))?;
    Ok(Spawned { pid, ends })
}

/// Starts a command with its output on the guest's console; the caller must reap the process id.
///
/// # Errors
/// Why it cannot run.
pub(crate) fn spawn_on_console(exec: &Exec, defaults: &Process) -> Result<u32, CallError> {
    let connect = || {
        let device = OwnedFd::from(console::device()?);
        let standard = Standard {
            input: sys::null()?,
            output: device.try_clone()?,
            error: device,
        };
        Ok((standard, ()))
    };
    Ok(start(exec, defaults, connect)?.0)
}

/// Starts the agent's own program as a user of the image, with one end of a socket as standard input and
/// output; returns its process id, which the caller must reap, and the other end, which does not block.
///
/// # Errors
/// No such user; whatever keeps a process from starting.
pub(crate) fn spawn_self(
    mode: &str,
    user: Option<&str>,
    defaults: &Process,
) -> Result<(u32, OwnedFd), CallError> {
    let account = account::find(user.unwrap_or(&defaults.user)).map_err(bad_request)?;
    // The magic link leads to the program even when its file is gone, as the initramfs is.
    let file = "/proc/self/exe";
    let child = Child {
        file: c_string(file.as_bytes())?,
        arguments: c_strings(&["banger-agent".to_owned(), mode.to_owned()])?,
        environment: Vec::new(),
        terminal: false,
        reset: role() != Role::Test,
        credentials: credentials(&account),
        directory: c_string(b"/")?,
    };
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed("make a socket", &e))?;
    let connected = theirs.try_clone().and_then(|input| {
        ours.set_nonblocking(true)?;
        // Smaller is slower, no worse.
        let _ = setsockopt(&ours, SndBufForce, &IN_FLIGHT);
        Ok(Standard {
            input: input.into(),
            output: theirs.into(),
            error: sys::null()?,
        })
    });
    let standard = connected.map_err(|e| failed("make a socket", &e))?;
    loopback::ensure();
    match sys::spawn(standard, &child) {
        Ok(pid) => Ok((pid, ours.into())),
        Err((_, error)) => Err(failed("start a process", &error)),
    }
}

fn start<T>(
    exec: &Exec,
    defaults: &Process,
    connect: impl FnOnce() -> io::Result<(Standard, T)>,
) -> Result<(u32, T), CallError> {
    let plan = plan(exec, defaults)?;
    let account = &plan.account;
    let child = Child {
        file: c_string(plan.file.as_os_str().as_encoded_bytes())?,
        arguments: c_strings(&plan.arguments)?,
        environment: c_strings(&plan.environment)?,
        terminal: exec.terminal.is_some(),
        reset: role() != Role::Test,
        credentials: credentials(account),
        directory: c_string(plan.directory.as_bytes())?,
    };
    let (standard, ends) = connect().map_err(|e| failed("make pipes", &e))?;
    loopback::ensure();
    match sys::spawn(standard, &child) {
        Ok(pid) => Ok((pid, ends)),
        Err((Stage::Exec, error)) => Err(command::explain(&plan.file, &error)),
        Err((Stage::Directory, error)) => Err(bad_request(format!(
            "working directory {}: {error}",
            plan.directory
        ))),
        Err((Stage::Credentials, error)) => Err(failed(
            &format!("change to uid {} and gid {}", account.uid, account.gid),
            &error,
        )),
        Err((Stage::Setup, error)) => Err(failed("start a process", &error)),
    }
}

/// `None` when we are that user already, so that an unprivileged agent works in tests.
pub(crate) fn credentials(account: &Account) -> Option<(Uid, Gid, Vec<Gid>)> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    if !nix::unistd::geteuid().is_root() && uid == nix::unistd::geteuid() {
        return None;
    }
    let groups = account.groups.iter().chain([&account.gid]);
    Some((uid, gid, groups.map(|gid| Gid::from_raw(*gid)).collect()))
}

fn plan(exec: &Exec, defaults: &Process) -> Result<Plan, CallError> {
    let account =
        account::find(exec.user.as_deref().unwrap_or(&defaults.user)).map_err(bad_request)?;
    let environment = environment(exec, defaults, &account);
    let directory = directory(exec, defaults)?;
    let (name, mut arguments) = match exec.argv.first() {
        Some(name) => (name.clone(), exec.argv.clone()),
        None => (account.shell.clone(), vec![login_name(&account.shell)]),
    };
    if arguments[0].is_empty() {
        arguments[0].clone_from(&name);
    }
    let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let file = command::find(&name, path, Path::new(&directory))?;
    let environment = environment
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    Ok(Plan {
        file,
        arguments,
        environment,
        directory,
        account,
    })
}

/// A shell whose name begins with a dash is a login shell.
pub(crate) fn login_name(shell: &str) -> String {
    format!("-{}", shell.rsplit('/').next().unwrap_or(shell))
}

fn environment(exec: &Exec, defaults: &Process, account: &Account) -> BTreeMap<String, String> {
    let mut all = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut of_account = vec![("HOME".to_owned(), account.home.clone())];
    if let Some(name) = &account.name {
        of_account.push(("USER".to_owned(), name.clone()));
        of_account.push(("LOGNAME".to_owned(), name.clone()));
    }
    let of_image = defaults.env.iter().filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    // The image's HOME belongs to the image's user; somebody else has a home of their own.
    if exec.user.is_some() {
        all.extend(of_image);
        all.extend(of_account);
    } else {
        all.extend(of_account);
        all.extend(of_image);
    }
    if exec.terminal.is_some() {
        all.push(("TERM".to_owned(), "xterm-256color".to_owned()));
    }
    all.extend(exec.env.iter().cloned());
    all.into_iter()
        .filter(|(name, _)| !name.is_empty() && !name.contains('='))
        .collect()
}

fn directory(exec: &Exec, defaults: &Process) -> Result<String, CallError> {
    let directory = match &exec.cwd {
        Some(directory) => directory.clone(),
        None if defaults.cwd.is_empty() => "/".to_owned(),
        None => {
            // Images name working directories that no layer makes; docker makes them, too.
            let _ = std::fs::create_dir_all(&defaults.cwd);
            defaults.cwd.clone()
        }
    };
    let path = Path::new(&directory);
    if !path.is_absolute() {
        Err(bad_request(format!(
            "working directory {directory} is not absolute"
        )))
    } else if !path.exists() {
        Err(bad_request(format!(
            "no such directory in the guest: {directory}"
        )))
    } else if !path.is_dir() {
        Err(bad_request(format!(
            "not a directory in the guest: {directory}"
        )))
    } else {
        Ok(directory)
    }
}

fn connect(exec: &Exec) -> io::Result<(Standard, Ends)> {
    if let Some(size) = exec.terminal {
        let (master, slave) = terminal(size)?;
        return Ok((on_terminal(slave)?, Ends::Terminal(master)));
    }
    pipes(exec.stdin)
}

/// All three on a terminal.
///
/// # Errors
/// Those of dup(2).
pub(crate) fn on_terminal(slave: OwnedFd) -> io::Result<Standard> {
    Ok(Standard {
        input: slave.try_clone()?,
        output: slave.try_clone()?,
        error: slave,
    })
}

/// Pipes for a command, and `/dev/null` as standard input without `stdin`; its ends and ours.
///
/// # Errors
/// Those of pipe(2).
pub(crate) fn pipes(stdin: bool) -> io::Result<(Standard, Ends)> {
    let (input, stdin) = if stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        (read, Some(write))
    } else {
        (sys::null()?, None)
    };
    let (stdout, output) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, error) = pipe2(OFlag::O_CLOEXEC)?;
    for end in stdin.iter().chain([&stdout, &stderr]) {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let standard = Standard {
        input,
        output,
        error,
    };
    let ends = Ends::Pipes {
        stdin,
        stdout,
        stderr,
    };
    Ok((standard, ends))
}

fn terminal(size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let master =
        posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NOCTTY)
        .open(ptsname_r(&master)?)?;
    sys::resize(std::os::fd::AsFd::as_fd(&slave), size)?;
    Ok((master.into(), slave.into()))
}

fn c_strings(strings: &[String]) -> Result<Vec<CString>, CallError> {
    strings.iter().map(|s| c_string(s.as_bytes())).collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, CallError> {
    CString::new(bytes)
        .map_err(|_| bad_request("an argument, variable or path has a zero byte".to_owned()))
}

pub(crate) fn bad_request(message: String) -> CallError {
    CallError {
        kind: CallErrorKind::BadRequest,
        message,
    }
}

pub(crate) fn failed(what: &str, error: &io::Error) -> CallError {
    CallError {
        kind: CallErrorKind::Failed,
        message: format!("the guest could not {what}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            uid: 1000,
            gid: 1000,
            groups: vec![],
            name: Some("dev".to_owned()),
            home: "/home/dev".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    fn value(exec: &Exec, env: &[&str], name: &str) -> Option<String> {
        let defaults = Process {
            env: env.iter().map(|s| (*s).to_owned()).collect(),
            ..Process::default()
        };
        environment(exec, &defaults, &account()).remove(name)
    }

    #[test]
    fn later_sources_of_the_environment_win() {
        let plain = Exec::default();
        let other = Exec {
            user: Some("dev".to_owned()),
            ..Exec::default()
        };
        let explicit = Exec {
            env: vec![("HOME".to_owned(), "/x".to_owned())],
            ..other.clone()
        };
        let image = ["HOME=/image", "PATH=/opt", "noequals", "=bad"];
        assert_eq!(value(&plain, &[], "PATH").unwrap(), DEFAULT_PATH);
        assert_eq!(value(&plain, &image, "PATH").unwrap(), "/opt");
        assert_eq!(value(&plain, &image, "HOME").unwrap(), "/image");
        assert_eq!(value(&other, &image, "HOME").unwrap(), "/home/dev");
        assert_eq!(value(&explicit, &image, "HOME").unwrap(), "/x");
        assert_eq!(value(&plain, &image, "USER").unwrap(), "dev");
        assert_eq!(value(&plain, &image, ""), None);
        assert_eq!(value(&plain, &[], "TERM"), None);
    }

    #[test]
    fn a_login_shell_is_named_with_a_dash() {
        assert_eq!(login_name("/bin/bash"), "-bash");
    }
}
