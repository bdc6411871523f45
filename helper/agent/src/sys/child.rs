//! A child between clone(2) and execve(2).

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{CString, c_char};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, clone};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid};

use super::{OPEN_FILES_HARD, OPEN_FILES_SOFT, set_controlling_terminal};
use crate::role::{Role, role};

/// For what a child does before it is another program, in bytes: system calls, without recursion.
const STACK: usize = 16 * 1024;

/// What a child becomes, and what happens before.
#[derive(Debug)]
pub(crate) struct Child {
    /// The program; no search in `PATH`.
    pub(crate) file: CString,
    /// Its arguments with its name first.
    pub(crate) arguments: Vec<CString>,
    /// `NAME=value`.
    pub(crate) environment: Vec<CString>,
    /// Descriptor 0 becomes the controlling terminal.
    pub(crate) terminal: bool,
    /// Undo what the agent set for itself: limits, and OOM protection where it is not process 1.
    pub(crate) reset: bool,
    /// Change to this user; `None` leaves credentials alone.
    pub(crate) credentials: Option<(Uid, Gid, Vec<Gid>)>,
    /// Working directory, entered with the new credentials.
    pub(crate) directory: CString,
}

/// A child's standard input, output and error.
#[derive(Debug)]
pub(crate) struct Standard {
    /// Descriptor 0.
    pub(crate) input: OwnedFd,
    /// Descriptor 1.
    pub(crate) output: OwnedFd,
    /// Descriptor 2.
    pub(crate) error: OwnedFd,
}

/// `/dev/null`, both ways.
///
/// # Errors
/// Those of open(2).
pub(crate) fn null() -> io::Result<OwnedFd> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    Ok(null.into())
}

/// Where in the child a spawn failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Session, terminal or limits.
    Setup,
    /// setgroups, setgid, setuid.
    Credentials,
    /// The working directory.
    Directory,
    /// execve(2) itself.
    Exec,
}

/// Starts `child` in a session of its own, and returns its process id. The caller reaps. Our copies of `standard` are
/// closed, for while they are open what the child writes has no end.
///
/// The child borrows our memory until it is another program, as vfork(2)'s does: no page table is copied and no page
/// after that, of which an emulated processor has to be told, too. Until then the calling thread waits.
///
/// # Errors
/// The stage in the child that failed and its error.
pub(crate) fn spawn(standard: Standard, child: &Child) -> Result<u32, (Stage, io::Error)> {
    let prepared = Prepared::new(&standard, child);
    let setup = |error: Errno| (Stage::Setup, error.into());
    let failed = Cell::new(None);
    let mut stack = vec![0; STACK];
    // A handler of ours must not run in the child, where it would act in our name.
    let mask = SigSet::all();
    let before = mask
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(setup)?;
    let work = Box::new(|| {
        let mut stage = Stage::Setup;
        let Err(error) = prepared.become_program(&mut stage);
        failed.set(Some((stage, error)));
        1
    });
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the child has a stack of its own, and this thread waits until the child has left our memory by execve(2)
    // or its end. Until then it makes system calls on values made before: it neither allocates nor locks, nor does it
    // call the functions of the C library that speak to all threads.
    let cloned = unsafe { clone(work, &mut stack, flags, Some(libc::SIGCHLD)) };
    before.thread_set_mask().map_err(setup)?;
    let pid = cloned.map_err(setup)?;
    match failed.get() {
        None => Ok(pid.as_raw().cast_unsigned()),
        Some((stage, error)) => {
            // It never was anybody's command.
            let _ = waitpid(pid, None);
            Err((stage, error.into()))
        }
    }
}

/// A child as the kernel takes it.
struct Prepared<'a> {
    child: &'a Child,
    standard: [RawFd; 3],
    /// The OOM killer spares us, who are not process 1, which it always does.
    protected: bool,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    credentials: Option<(Uid, Gid, Vec<libc::gid_t>)>,
}

impl Prepared<'_> {
    fn new<'a>(standard: &Standard, child: &'a Child) -> Prepared<'a> {
        let credentials = child.credentials.as_ref();
        Prepared {
            child,
            // None of them is 0, 1 or 2: the standard library opens these when they are closed at a program's start.
            standard: [&standard.input, &standard.output, &standard.error].map(AsRawFd::as_raw_fd),
            protected: role() == Role::Beside,
            arguments: pointers(&child.arguments),
            environment: pointers(&child.environment),
            credentials: credentials.map(|(uid, gid, groups)| {
                let groups = groups.iter().map(|gid| gid.as_raw());
                (*uid, *gid, groups.collect())
            }),
        }
    }

    fn become_program(&self, stage: &mut Stage) -> Result<Infallible, Errno> {
        for (number, descriptor) in (0..).zip(self.standard) {
            // SAFETY: it takes numbers; what the child has at 0, 1 and 2 is its own to replace.
            Errno::result(unsafe { libc::dup2(descriptor, number) })?;
        }
        if self.child.reset {
            if self.protected {
                reset_oom_score()?;
            }
            setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_SOFT, OPEN_FILES_HARD)?;
        }
        default_signals();
        SigSet::empty().thread_set_mask()?;
        nix::unistd::setsid()?;
        if self.child.terminal {
            // SAFETY: descriptor 0 is a terminal; the argument is a number.
            unsafe { set_controlling_terminal(0, 0) }?;
        }
        *stage = Stage::Credentials;
        if let Some((uid, gid, groups)) = &self.credentials {
            // SAFETY: the kernel reads as many groups as there are; the others take numbers. The C library's own
            // functions would ask the other threads to follow (nptl(7)).
            unsafe {
                let (count, groups) = (groups.len(), groups.as_ptr());
                Errno::result(libc::syscall(libc::SYS_setgroups, count, groups))?;
                Errno::result(libc::syscall(libc::SYS_setgid, gid.as_raw()))?;
                Errno::result(libc::syscall(libc::SYS_setuid, uid.as_raw()))?;
            }
        }
        *stage = Stage::Directory;
        nix::unistd::chdir(self.child.directory.as_c_str())?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        *stage = Stage::Exec;
        let (file, arguments, environment) = (
            self.child.file.as_ptr(),
            self.arguments.as_ptr(),
            self.environment.as_ptr(),
        );
        // SAFETY: the strings and the arrays of pointers to them, which end with a null, are live.
        unsafe { libc::execve(file, arguments, environment) };
        Err(Errno::last())
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let strings = strings.iter().map(|string| string.as_ptr());
    strings.chain([ptr::null()]).collect()
}

/// A command must not inherit a signal that who started the agent ignores (exec(3p): ignored stays ignored).
pub(super) fn default_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in Signal::iterator() {
        // SAFETY: no handler of ours is replaced by another; SIGKILL and SIGSTOP are refused, and stay.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
}

pub(super) fn reset_oom_score() -> nix::Result<()> {
    let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(
        c"/proc/self/oom_score_adj",
        flags,
        nix::sys::stat::Mode::empty(),
    )?;
    nix::unistd::write(file.as_fd(), b"0")?;
    Ok(())
}
