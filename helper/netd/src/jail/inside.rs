//! The way into a jail. Runs in a process of its own that becomes the machine monitor; whatever it says on standard
//! output is why it did not.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, pivot_root, setgroups,
    setresgid, setresuid, setsid,
};

use super::Entrance;
use crate::sys;

/// Copies, in the jail's own memory.
pub(super) const KERNEL: &str = "/kernel";
pub(super) const INITRD: &str = "/initrd";

/// All of the host that is seen inside, read-only: where programs have their libraries and firmware.
const SEEN: [&str; 8] = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/nix/store",
    "/etc/ld.so.cache",
];

const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];
const KVM: &str = "/dev/kvm";

/// Of a kernel and an initramfs, in bytes.
pub(super) const LONGEST: u64 = 1 << 30;

/// CAP_LAST_CAP is smaller for a long time to come.
const CAPABILITIES: i32 = 63;

/// Becomes what standard input says.
pub(crate) fn enter() -> ExitCode {
    let Err(error) = read().and_then(|entrance| become_it(&entrance));
    // Whoever reads it may be gone.
    let _ = writeln!(io::stdout(), "{error}");
    ExitCode::FAILURE
}

fn read() -> io::Result<Entrance> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn become_it(entrance: &Entrance) -> io::Result<Infallible> {
    if let Some(cgroup) = &entrance.cgroup {
        let own = std::process::id().to_string();
        step(
            "enter the cgroup",
            fs::write(cgroup.join("cgroup.procs"), own),
        )?;
    }
    setsid()?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    step("make namespaces", unshare(namespaces).map_err(Into::into))?;
    step("make a root", root(entrance))?;
    let program = CString::new(entrance.program.as_os_str().as_bytes())?;
    let mut arguments = vec![program.clone()];
    for argument in &entrance.arguments {
        arguments.push(CString::new(argument.as_str())?);
    }
    let kvm = if entrance.kvm {
        Some(fs::metadata(KVM)?.gid())
    } else {
        None
    };
    step("give up rights", give_up(entrance.uid, kvm))?;
    // Closed by execve(2): then the daemon knows that it was done.
    let mut daemon = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    streams(entrance.log)?;
    // Whatever this process inherited, from whomever, ends here.
    sys::inherit_only(&entrance.kept)?;
    let Err(error) = execve(&program, &arguments, &[] as &[CString]);
    writeln!(
        daemon,
        "cannot execute {}: {error}",
        entrance.program.display()
    )?;
    Err(error.into())
}

fn step<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::other(format!("cannot {what}: {error}")))
}

/// A file system in memory, with what is needed bound into it, in place of the root.
fn root(entrance: &Entrance) -> io::Result<()> {
    let none: Option<&str> = None;
    let root = &entrance.root;
    // Nothing of this reaches the host.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("jail"), root, Some("tmpfs"), flags, Some("mode=0755"))?;
    for path in SEEN {
        bind(root, Path::new(path))?;
    }
    bind(root, &entrance.program)?;
    for path in DEVICES.into_iter().chain(entrance.kvm.then_some(KVM)) {
        bind(root, Path::new(path))?;
    }
    copy(entrance.kernel, root, KERNEL)?;
    copy(entrance.initrd, root, INITRD)?;
    let sealed =
        flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC;
    mount(none, root, none, sealed, none)?;
    chdir(root.as_path())?;
    // The old root is on top of the new one, and goes (pivot_root(2), example).
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

/// What is at `path` is at the same place in the jail, for reading. What is not there is not needed.
fn bind(root: &Path, path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let place = within(root, path);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(path)?, place);
    }
    let device = metadata.file_type().is_char_device();
    if metadata.is_dir() {
        fs::create_dir_all(&place)?;
    } else {
        File::create_new(&place)?;
    }
    let none: Option<&str> = None;
    mount(Some(path), &place, none, MsFlags::MS_BIND, none)?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID;
    if device {
        flags |= MsFlags::MS_NOEXEC;
    } else {
        flags |= MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    }
    mount(none, &place, none, flags, none)?;
    Ok(())
}

fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A copy, because the jail's user may not read the caller's file.
fn copy(from: RawFd, root: &Path, name: &str) -> io::Result<()> {
    // The descriptor is not inherited any further.
    let from = File::from(sys::passed_descriptor(from)?);
    let place = within(root, Path::new(name));
    let mut to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&place)?;
    to.set_permissions(Permissions::from_mode(0o444))?;
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    // From the beginning, wherever the caller's own place in the file is.
    loop {
        let length = from.read_at(&mut buffer, at)?;
        if length == 0 {
            return Ok(());
        }
        at += length as u64;
        if at > LONGEST {
            return Err(io::Error::other(format!(
                "{name} is longer than {LONGEST} bytes"
            )));
        }
        to.write_all(&buffer[..length])?;
    }
}

/// Nothing is left of root, and nothing brings it back.
fn give_up(uid: u32, kvm: Option<u32>) -> io::Result<()> {
    for number in 0..=CAPABILITIES {
        match sys::drop_capability(number) {
            // The kernel has no more.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => break,
            result => result?,
        }
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let groups: Vec<Gid> = kvm.into_iter().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    set_no_new_privs()?;
    umask(Mode::from_bits_truncate(0o077));
    Ok(())
}

/// Nothing to read; what is said goes to the log. The daemon's pipe closes with that.
fn streams(log: RawFd) -> io::Result<()> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    let log = sys::passed_descriptor(log)?;
    dup2_stdin(&null)?;
    // In this order nothing is said into the log that the daemon should hear.
    dup2_stderr(&log)?;
    dup2_stdout(&log)?;
    Ok(())
}
