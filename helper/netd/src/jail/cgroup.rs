//! The cgroup of a jail (cgroups(7), version 2). Where systemd runs it is a scope, and the path is the same.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use banger_proto::VmId;

use crate::sys;

const SLICE: &str = "banger.slice";
const PROCESSES: &str = "cgroup.procs";

/// The unit's name.
pub(super) fn unit(vm: &VmId) -> String {
    format!("banger-jail-{vm}.scope")
}

fn path(vm: &VmId) -> io::Result<PathBuf> {
    Ok(hierarchy()?.join(SLICE).join(unit(vm)))
}

/// Where version 2 is mounted.
fn hierarchy() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mount_point(&mounts).ok_or_else(|| {
        let message =
            "this host has no cgroup hierarchy of version 2, which jails need (mount -t cgroup2)";
        io::Error::new(io::ErrorKind::Unsupported, message)
    })
}

/// The second field of the first line of that type (fstab(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find_map(|fields| match fields[..] {
            [_, place, "cgroup2", ..] => Some(PathBuf::from(place)),
            _ => None,
        })
}

pub(super) fn make(vm: &VmId) -> io::Result<PathBuf> {
    let path = path(vm)?;
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// One that is in use is not removed; one that is gone, or systemd's, is as good.
pub(super) fn remove(vm: &VmId) -> io::Result<()> {
    fs::remove_dir(path(vm)?)
}

/// What is in it; each was still in it when its descriptor was there, so no number was given to another process.
pub(super) fn processes(vm: &VmId) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for pid in numbers(vm)? {
        match sys::pidfd_open(pid) {
            Ok(process) if numbers(vm)?.contains(&pid) => found.push(process),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn numbers(vm: &VmId) -> io::Result<Vec<i32>> {
    let text = match path(vm).and_then(|path| fs::read_to_string(path.join(PROCESSES))) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
                // It was removed while it was read (kernfs).
                || error.raw_os_error() == Some(nix::libc::ENODEV) =>
        {
            String::new()
        }
        text => text?,
    };
    Ok(text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_found_beside_version_1() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(
            mount_point("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"),
            None
        );
    }
}
