//! The system calls that neither std nor nix offers safely. Unsafe code: this module and its parts only.
//!
//! Everything that runs between fork and exec is here too.
#![allow(unsafe_code)]

mod child;
pub(crate) mod netdevice;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use banger_wire::agent::TerminalSize;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{ForkResult, Gid, Pid, Uid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use self::child::{Child, Stage, Standard, null, spawn};
use self::child::{default_signals, reset_oom_score};

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

/// Takes over a descriptor that the process was executed with; children will not have it.
///
/// # Errors
/// `EBADF` when it is not open.
pub(crate) fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: the borrow lasts for one fcntl(2), which fails cleanly when the number is not open.
    fcntl(
        unsafe { BorrowedFd::borrow_raw(number) },
        FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC),
    )?;
    // SAFETY: it is open, and each number on the command line is taken once, before anything else opens.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Starts this program once more, as a child with a session of its own that keeps the descriptors `keep`.
///
/// # Errors
/// Those of fork(2); a child that cannot execute itself ends at once.
pub(crate) fn fork_self(arguments: &[String], keep: &[RawFd]) -> io::Result<Pid> {
    let arguments = c_strings(arguments)?;
    // SAFETY: at the boot the agent has one thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let executed = (|| -> io::Result<Infallible> {
                nix::unistd::setsid()?;
                let null = File::options().read(true).write(true).open("/dev/null")?;
                nix::unistd::dup2_stdin(&null)?;
                nix::unistd::dup2_stdout(&null)?;
                nix::unistd::dup2_stderr(&null)?;
                for number in keep {
                    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
                    // SAFETY: the parent holds these open over the fork.
                    let kept = unsafe { BorrowedFd::borrow_raw(*number) };
                    fcntl(kept, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                // A link to the file itself: the path of the initramfs is gone (proc_pid_exe(5)).
                let no_environment: [CString; 0] = [];
                Ok(nix::unistd::execve(
                    c"/proc/self/exe",
                    &arguments,
                    &no_environment,
                )?)
            })();
            crate::console::say(&format!("the agent cannot go on: {:?}", executed.err()));
            // SAFETY: ends this child without running what the parent registered for its own end.
            unsafe { libc::_exit(1) }
        }
    }
}

/// Makes process 1 the image's init, with what the kernel gives an init.
///
/// # Errors
/// Those of execve(2).
pub(crate) fn become_init(arguments: &[String], environment: &[&str]) -> io::Result<Infallible> {
    let arguments = c_strings(arguments)?;
    let environment: Vec<String> = environment.iter().map(|&entry| entry.to_owned()).collect();
    let environment = c_strings(&environment)?;
    let program = arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
    reset_oom_score()?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_SOFT, OPEN_FILES_HARD)?;
    default_signals();
    nix::unistd::chdir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(nix::unistd::execve(program, &arguments, &environment)?)
}

/// Sends any signal, also one of the real-time signals, which nix has no names for.
///
/// # Errors
/// Those of kill(2).
pub(crate) fn send_signal(pid: Pid, number: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers.
    nix::errno::Errno::result(unsafe { libc::kill(pid.as_raw(), number) })?;
    Ok(())
}

/// Keeps signals of others from ending the agent; commands start with the defaults again.
pub(crate) fn ignore_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        // SAFETY: ignoring runs no code of ours.
        let _ = unsafe { signal(number, SigHandler::SigIgn) };
    }
}

fn c_strings(strings: &[String]) -> io::Result<Vec<CString>> {
    let strings = strings.iter().map(|string| CString::new(string.as_bytes()));
    Ok(strings.collect::<Result<_, _>>()?)
}

/// Lets tokio watch a non-blocking descriptor; needs a running runtime.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// As [`watch`], for signals.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn watch_signals(descriptor: SignalFd) -> io::Result<AsyncFd<SignalFd>> {
    // SAFETY: as above; it owns its descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// From here on this thread runs when nobody else wants to (sched(7), `SCHED_IDLE`).
///
/// # Errors
/// Those of sched_setscheduler(2).
pub(crate) fn only_when_idle() -> io::Result<()> {
    schedule(libc::SCHED_IDLE)
}

/// From here on this thread interrupts nobody when it is woken (sched(7), `SCHED_BATCH`).
///
/// # Errors
/// Those of sched_setscheduler(2).
pub(crate) fn never_preempt() -> io::Result<()> {
    schedule(libc::SCHED_BATCH)
}

fn schedule(policy: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live sched_param, and 0 is this thread.
    let set = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    nix::errno::Errno::result(set)?;
    Ok(())
}

/// Gives the calling thread a user's rights, for good, and the working directory `/` and umask 022 for itself. The other
/// threads keep theirs: glibc's own functions would change all of them (nptl(7)), the system calls do not.
///
/// # Errors
/// Those of unshare(2), setgroups(2), setresgid(2), setresuid(2) and capset(2).
pub(crate) fn take_rights(credentials: Option<&(Uid, Gid, Vec<Gid>)>) -> io::Result<()> {
    // struct __user_cap_header_struct and two of __user_cap_data_struct (capset(2)).
    const VERSION_3: u32 = 0x2008_0522;
    let done = |result: libc::c_long| nix::errno::Errno::result(result);
    // SAFETY: it takes a number; the directory and umask are nobody else's from here on.
    done(unsafe { libc::unshare(libc::CLONE_FS) }.into())?;
    nix::unistd::chdir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let Some((uid, gid, groups)) = credentials else {
        return Ok(());
    };
    let groups: Vec<libc::gid_t> = groups.iter().map(|gid| gid.as_raw()).collect();
    let same = libc::uid_t::MAX;
    // SAFETY: the kernel reads as many groups as there are; the others take numbers.
    unsafe {
        done(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        done(libc::syscall(libc::SYS_setresgid, same, gid.as_raw(), same))?;
        done(libc::syscall(libc::SYS_setresuid, same, uid.as_raw(), same))?;
    }
    if !uid.is_root() {
        let (header, none) = ([VERSION_3, 0], [0_u32; 6]);
        // SAFETY: both are as long as version 3 says, and live.
        done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })?;
    }
    Ok(())
}

/// Freed memory stays ours, up to 8 MiB, until [`free_kept_memory`]: to give it back and ask for it again with each batch
/// of a copy costs more than the copy (mallopt(3)).
pub(crate) fn keep_freed_memory() {
    const KEPT: libc::c_int = 8 << 20;
    const OWN_MAPPING: libc::c_int = 1 << 20;
    // SAFETY: they take numbers.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
    }
}

/// Gives freed memory back to the kernel.
pub(crate) fn free_kept_memory() {
    // SAFETY: it takes a number.
    unsafe { libc::malloc_trim(0) };
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

/// One request to the device mapper; `buffer` begins with its `struct dm_ioctl` and gets the answer.
///
/// # Errors
/// Those of ioctl(2); `InvalidInput` for a buffer without room for the header.
pub(crate) fn device_mapper(control: &File, command: u8, buffer: &mut [u8]) -> io::Result<()> {
    const HEADER: usize = 312;
    /// Where `data_size` is: as far the kernel reads and writes.
    const DATA_SIZE: std::ops::Range<usize> = 12..16;
    let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    if buffer.len() < HEADER || buffer[DATA_SIZE] != length.to_le_bytes() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let number = nix::request_code_readwrite!(0xfd, command, HEADER);
    // SAFETY: the kernel reads and writes `data_size` bytes, which is the buffer's length.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), number, buffer.as_mut_ptr()) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Gives `to` the extended attributes of `from`, neither followed when it is a link. A file system without
/// attributes has none to give, and one that takes none gets none.
///
/// # Errors
/// Those of lgetxattr(2) and lsetxattr(2).
pub(crate) fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    /// XATTR_LIST_MAX and XATTR_SIZE_MAX (linux/limits.h).
    const LARGEST: usize = 65_536;
    let from = CString::new(from.as_os_str().as_encoded_bytes())?;
    let to = CString::new(to.as_os_str().as_encoded_bytes())?;
    let mut names = vec![0_u8; LARGEST];
    // SAFETY: path and buffer are live, and the buffer is as long as it says.
    let length = unsafe { libc::llistxattr(from.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(nix::errno::Errno::result(length).unwrap_or(0)) else {
        return Ok(());
    };
    names.truncate(length);
    let mut value = vec![0_u8; LARGEST];
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else {
            continue;
        };
        // SAFETY: as above.
        let length = unsafe {
            libc::lgetxattr(
                from.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        let length = usize::try_from(nix::errno::Errno::result(length)?).unwrap_or(0);
        // SAFETY: as above; `length` bytes of the value are set.
        let set = unsafe {
            libc::lsetxattr(to.as_ptr(), name.as_ptr(), value.as_ptr().cast(), length, 0)
        };
        match nix::errno::Errno::result(set) {
            Ok(_) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
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
