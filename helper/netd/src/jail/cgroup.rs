//! The cgroup of a jail (cgroups(7)), of version 2 where there is one. Where systemd runs it is a scope, and the path
//! is the same.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_proto::VmId;
use nix::libc;
use tokio::time::timeout;

use super::Ceiling;
use crate::sys;

const SLICE: &str = "banger.slice";
const PREFIX: &str = "banger-jail-";
const SUFFIX: &str = ".scope";
const PROCESSES: &str = "cgroup.procs";
/// Of version 2 only.
const EVENTS: &str = "cgroup.events";

/// The kernel takes a process out of its cgroup while it ends, which needs no one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The unit's name.
pub(super) fn unit(vm: &VmId) -> String {
    format!("{PREFIX}{vm}{SUFFIX}")
}

fn path(vm: &VmId) -> io::Result<PathBuf> {
    Ok(slice()?.join(unit(vm)))
}

fn slice() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let hierarchy = hierarchy(&mounts).ok_or_else(|| {
        let message = "this host has no cgroup hierarchy, which jails need (mount -t cgroup2)";
        io::Error::new(io::ErrorKind::Unsupported, message)
    })?;
    Ok(hierarchy.join(SLICE))
}

/// Version 2; without it the hierarchy of version 1 that a service manager keeps processes in (`name=systemd`), else any
/// (fstab(5), cgroups(7)).
fn hierarchy(mounts: &str) -> Option<PathBuf> {
    let mut found: Option<(u8, &str)> = None;
    for line in mounts.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let (place, rank) = match fields[..] {
            [_, place, "cgroup2", ..] => (place, 3),
            [_, place, "cgroup", options, ..] => {
                let named = options.split(',').any(|option| option.starts_with("name="));
                (place, if named { 2 } else { 1 })
            }
            _ => continue,
        };
        if found.is_none_or(|(best, _)| rank > best) {
            found = Some((rank, place));
        }
    }
    found.map(|(_, place)| PathBuf::from(place))
}

pub(super) fn make(vm: &VmId, ceiling: Ceiling) -> io::Result<PathBuf> {
    let slice = slice()?;
    let path = slice.join(unit(vm));
    fs::create_dir_all(&path)?;
    limit(&slice, &path, ceiling)?;
    Ok(path)
}

/// Of version 2, where this host has the controllers for its slices. What all of the host has is not switched on for
/// us, and the hierarchy of version 1 that is taken has none.
fn limit(slice: &Path, path: &Path, ceiling: Ceiling) -> io::Result<()> {
    let there = match fs::read_to_string(slice.join("cgroup.controllers")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    for (controller, file, limit) in [
        ("memory", "memory.max", ceiling.memory),
        ("pids", "pids.max", ceiling.tasks.into()),
    ] {
        if there.split_whitespace().any(|word| word == controller) {
            let enable = format!("+{controller}");
            fs::write(slice.join("cgroup.subtree_control"), enable)?;
            fs::write(path.join(file), limit.to_string())?;
        }
    }
    // Memory that does not fit goes there; a kernel without swap has no such file.
    let swap = path.join("memory.swap.max");
    if swap.exists() {
        fs::write(swap, ceiling.memory.to_string())?;
    }
    Ok(())
}

/// Removes one in which nothing runs any more. One that is gone is as good.
///
/// # Errors
/// `EBUSY` when something runs in it; those of rmdir(2), as where it is systemd's.
pub(super) async fn remove(vm: &VmId) -> io::Result<()> {
    let path = path(vm)?;
    match fs::remove_dir(&path) {
        // Processes that end are seen no more, and may be in it for a moment all the same.
        Err(error) if is(&error, libc::EBUSY) && numbers(vm)?.is_empty() => {
            if !unpopulated(&path.join(EVENTS)).await? {
                return Err(error);
            }
            fs::remove_dir(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Waits until the kernel says so. Version 1 says nothing: there a process has left before its end can be waited for.
async fn unpopulated(events: &Path) -> io::Result<bool> {
    let file = match File::open(events) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let watched = sys::Watched::new(file)?;
    let settled = async {
        while watched.text()?.contains("populated 1") {
            watched.changed().await?;
        }
        Ok::<_, io::Error>(())
    };
    match timeout(PATIENCE, settled).await {
        Ok(Ok(())) => Ok(true),
        // It was removed meanwhile.
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound || is(&error, libc::ENODEV) => {
            Ok(true)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// VMs in whose cgroup something runs.
///
/// # Errors
/// Those of listing.
pub(super) fn occupied() -> io::Result<Vec<VmId>> {
    let entries = match slice().and_then(fs::read_dir) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::Unsupported
            ) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let vm = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
            .and_then(|vm| VmId::try_from(vm).ok());
        if let Some(vm) = vm
            && !numbers(&vm)?.is_empty()
        {
            found.push(vm);
        }
    }
    found.sort();
    Ok(found)
}

/// What is in it; each was still in it when its descriptor was there, so no number was given to another process.
pub(super) fn processes(vm: &VmId) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for pid in numbers(vm)? {
        match sys::pidfd_open(pid) {
            Ok(process) if numbers(vm)?.contains(&pid) => found.push(process),
            Ok(_) => {}
            Err(error) if is(&error, libc::ESRCH) => {}
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
                || is(&error, libc::ENODEV) =>
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

fn is(error: &io::Error, number: i32) -> bool {
    error.raw_os_error() == Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_where_there_are_controllers() {
        let base = tempfile::tempdir().unwrap();
        let (slice, jail) = (base.path(), base.path().join("jail"));
        fs::create_dir(&jail).unwrap();
        let ceiling = Ceiling {
            memory: 1 << 30,
            tasks: 130,
        };
        let written = || fs::read_dir(&jail).unwrap().count();
        limit(slice, &jail, ceiling).unwrap();
        assert_eq!(written(), 0, "version 1");
        fs::write(slice.join("cgroup.controllers"), "hugetlb\n").unwrap();
        limit(slice, &jail, ceiling).unwrap();
        assert_eq!(written(), 0);
        fs::write(slice.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        limit(slice, &jail, ceiling).unwrap();
        let read = |name: &str| fs::read_to_string(jail.join(name)).unwrap();
        assert_eq!(
            (&*read("memory.max"), &*read("pids.max")),
            ("1073741824", "130")
        );
        fs::write(jail.join("memory.swap.max"), "max").unwrap();
        limit(slice, &jail, ceiling).unwrap();
        assert_eq!(read("memory.swap.max"), "1073741824");
        let enabled = fs::read_to_string(slice.join("cgroup.subtree_control"));
        assert_eq!(enabled.unwrap(), "+pids", "the last one");
    }

    #[test]
    fn version_2_is_taken_before_version_1_and_systemds_before_a_controllers() {
        let memory = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n";
        let named = "cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0\n";
        let unified = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        for (mounts, found) in [
            (format!("{memory}{unified}{named}"), Some("unified")),
            (format!("{memory}{named}"), Some("systemd")),
            (memory.to_owned(), Some("memory")),
            ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n".to_owned(), None),
        ] {
            let place = found.map(|name| Path::new("/sys/fs/cgroup").join(name));
            assert_eq!(hierarchy(&mounts), place, "{mounts}");
        }
    }
}
