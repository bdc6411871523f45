//! The system calls that neither std nor nix offers safely. Unsafe code: this module only.
//!
//! Everything that runs between fork and exec is here too.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use banger_wire::agent::TerminalSize;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

nix::ioctl_write_ptr_bad!(set_winsize, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);

/// Soft limit of open files that a command starts with: select(2) works below it.
const OPEN_FILES_SOFT: u64 = 1024;
/// Hard limit of open files, of the agent and of commands.
pub(crate) const OPEN_FILES_HARD: u64 = 524_288;

/// The program that runs here, whatever became of its file.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// Takes over a descriptor that the parent process passed by number.
///
/// # Errors
/// `EBADF` when it is not open.
pub(crate) fn passed_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow lasts for one fcntl(2), which fails cleanly when the number is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}

/// Lets tokio watch a non-blocking descriptor; needs a running runtime.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Sets a terminal's size; the kernel sends SIGWINCH to its foreground group.
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn resize(terminal: BorrowedFd<'_>, size: TerminalSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the pointer is to a live winsize, which is what TIOCSWINSZ reads.
    unsafe { set_winsize(terminal.as_raw_fd(), &size) }?;
    Ok(())
}

/// Makes a mounted ext4 file system as large as `blocks` of its own size, while it is used. The one way
/// to do it (linux/ext4.h, EXT4_IOC_RESIZE_FS); needs CAP_SYS_RESOURCE.
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn grow_ext4(root: &File, blocks: u64) -> io::Result<()> {
    nix::ioctl_write_ptr!(resize_fs, b'f', 16, u64);
    // SAFETY: the pointer is to a live u64, which is what EXT4_IOC_RESIZE_FS reads.
    unsafe { resize_fs(root.as_raw_fd(), &blocks) }?;
    Ok(())
}

/// Adds bytes to the kernel's entropy pool and counts them as random.
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn add_entropy(urandom: &File, bytes: &[u8]) -> io::Result<()> {
    const WORDS: usize = 64;
    // struct rand_pool_info of linux/random.h with its flexible array filled in.
    #[repr(C)]
    struct Pool {
        entropy_count: libc::c_int,
        size: libc::c_int,
        bytes: [u8; WORDS * 4],
    }
    nix::ioctl_write_ptr_bad!(add_entropy, 0x4008_5203, Pool);
    for chunk in bytes.chunks(WORDS * 4) {
        let mut pool = Pool {
            entropy_count: chunk.len() as libc::c_int * 8,
            size: chunk.len() as libc::c_int,
            bytes: [0; WORDS * 4],
        };
        pool.bytes[..chunk.len()].copy_from_slice(chunk);
        // SAFETY: RNDADDENTROPY reads `size` bytes behind the two integers, and `size` is at most
        // the length of the array.
        unsafe { add_entropy(urandom.as_raw_fd(), &pool) }?;
    }
    Ok(())
}

/// What happens in the child after the fork, and what it becomes.
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
    /// Undo what PID 1 set for itself: OOM protection and limits.
    pub(crate) reset: bool,
    /// Change to this user; `None` leaves credentials alone.
    pub(crate) credentials: Option<(Uid, Gid, Vec<Gid>)>,
    /// Working directory, entered with the new credentials.
    pub(crate) directory: CString,
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

/// Starts `child` in a session of its own with the standard input and output of `command`, and
/// returns its process id. The caller reaps.
///
/// The child executes itself instead of leaving that to `command`, whose execvp(3) gives a file of
/// an unknown format to `/bin/sh` and so hides that it cannot run.
///
/// # Errors
/// The stage in the child that failed and its error.
pub(crate) fn spawn(command: &mut Command, child: Child) -> Result<u32, (Stage, io::Error)> {
    let (failed_read, failed_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)
            .map_err(|e| (Stage::Setup, e.into()))?;
    let prepare = move || -> io::Result<()> {
        let mut stage = Stage::Setup;
        let Err(error) = child.become_command(&mut stage);
        let _ = nix::unistd::write(&failed_write, &[stage as u8]);
        Err(error)
    };
    // SAFETY: `prepare` makes system calls on values made before the fork and allocates only for
    // execve; the agent has one thread, so no other can hold the allocator's lock.
    unsafe { command.pre_exec(prepare) };
    match command.spawn() {
        Ok(process) => Ok(process.id()),
        Err(error) => {
            let mut stage = [Stage::Exec as u8];
            let _ = nix::unistd::read(&failed_read, &mut stage);
            let stage = [Stage::Setup, Stage::Credentials, Stage::Directory]
                .into_iter()
                .find(|s| *s as u8 == stage[0])
                .unwrap_or(Stage::Exec);
            Err((stage, error))
        }
    }
}

impl Child {
    fn become_command(&self, stage: &mut Stage) -> io::Result<Infallible> {
        if self.reset {
            reset_oom_score()?;
            setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_SOFT, OPEN_FILES_HARD)?;
        }
        default_signals();
        nix::unistd::setsid()?;
        if self.terminal {
            // SAFETY: descriptor 0 is the terminal that `Command` put there; the argument is a number.
            unsafe { set_controlling_terminal(0, 0) }?;
        }
        *stage = Stage::Credentials;
        if let Some((uid, gid, groups)) = &self.credentials {
            nix::unistd::setgroups(groups)?;
            nix::unistd::setgid(*gid)?;
            nix::unistd::setuid(*uid)?;
        }
        *stage = Stage::Directory;
        nix::unistd::chdir(self.directory.as_c_str())?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        *stage = Stage::Exec;
        Ok(nix::unistd::execve(
            &self.file,
            &self.arguments,
            &self.environment,
        )?)
    }
}

/// A command must not inherit a signal that who started the agent ignores (exec(3p): ignored stays ignored).
fn default_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in Signal::iterator() {
        // SAFETY: no handler of ours is replaced by another; SIGKILL and SIGSTOP are refused, and stay.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
}

fn reset_oom_score() -> io::Result<()> {
    let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(
        c"/proc/self/oom_score_adj",
        flags,
        nix::sys::stat::Mode::empty(),
    )?;
    nix::unistd::write(file.as_fd(), b"0")?;
    Ok(())
}
