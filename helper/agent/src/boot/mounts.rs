//! The kernel's own file systems.

use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::{BootError, While};

const SAFE: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// Mounts what every later stage needs; the ones that the kernel may lack are not missed.
///
/// # Errors
/// A required file system cannot be mounted.
pub(super) fn early() -> Result<(), BootError> {
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let no_device = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    required("proc", "/proc", SAFE, "")?;
    required("sysfs", "/sys", SAFE, "")?;
    required("devtmpfs", "/dev", no_exec, "mode=0755")?;
    required("devpts", "/dev/pts", no_exec, "gid=5,mode=620,ptmxmode=666")?;
    required("tmpfs", "/dev/shm", no_device, "mode=1777")?;
    required("tmpfs", "/run", no_device, "mode=0755")?;
    let _ = attach("cgroup2", "/sys/fs/cgroup", SAFE, "nsdelegate");
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    Ok(())
}

fn required(kind: &str, target: &str, flags: MsFlags, data: &str) -> Result<(), BootError> {
    attach(kind, target, flags, data).context(|| format!("mounting {kind} on {target}"))
}

fn attach(kind: &str, target: &str, flags: MsFlags, data: &str) -> io::Result<()> {
    // The kernel made some of these already.
    if !std::path::Path::new(target).is_dir() {
        std::fs::create_dir_all(target)?;
    }
    match mount(Some(kind), target, Some(kind), flags, Some(data)) {
        // CONFIG_DEVTMPFS_MOUNT may have been first.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
