//! Volumes: disks of their own below the root. Runs inside the image's root, whose links lead nowhere
//! else.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use banger_wire::config::Volume;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::grow::grow;
use super::{BootError, While, disk, seed};
use crate::account;

/// Says that a volume has had its seed; on its root, where users see it as they see `lost+found`.
const SEEDED: &str = ".banger-seeded";

/// Mounts the volumes, whose devices were found before the root was entered. A data loss is worse than a
/// boot that fails: nothing is skipped. `user` is the image's.
///
/// # Errors
/// A volume cannot be mounted, grown or seeded.
pub(super) fn mount_all(volumes: &[(PathBuf, Volume)], user: &str) -> Result<(), BootError> {
    volumes.iter().try_for_each(|(device, volume)| {
        let mut volume = volume.clone();
        if volume.path.is_empty() {
            volume.path = account::find(user).map_err(BootError)?.home;
        }
        mount_one(device, &volume)
    })
}

/// The devices of the volumes.
///
/// # Errors
/// One is missing.
pub(super) fn find(volumes: &[Volume]) -> Result<Vec<(PathBuf, Volume)>, BootError> {
    volumes
        .iter()
        .map(|volume| Ok((disk::find(&volume.serial)?, volume.clone())))
        .collect()
}

fn mount_one(device: &Path, volume: &Volume) -> Result<(), BootError> {
    let path = Path::new(&volume.path);
    let on = || format!("mounting a volume on {}", volume.path);
    fs::create_dir_all(path).context(on)?;
    // Before the mount hides what is there.
    let seed = volume.seed.then(|| seed_of(path)).transpose().context(on)?;
    let flags = match volume.read_only {
        true => MsFlags::MS_RDONLY,
        false => MsFlags::empty(),
    };
    mount(Some(device), path, Some("ext4"), flags, None::<&str>).map_err(|error| {
        let why = match error {
            // Its journal has to be replayed, which writes.
            Errno::EROFS => " (its last VM was killed; mount it writable once)",
            _ => "",
        };
        BootError(format!("{}: {error}{why}", on()))
    })?;
    if volume.read_only {
        return Ok(());
    }
    grow(device, path).context(|| format!("growing the volume on {}", volume.path))?;
    if let Some(seed) = seed {
        fill(&seed, path).context(|| format!("filling the volume on {}", volume.path))?;
    }
    Ok(())
}

/// What a new home directory begins with, and whose it is.
struct Seed {
    content: File,
    owner: File,
}

fn seed_of(path: &Path) -> io::Result<Seed> {
    let owner = File::open(path)?;
    let skeleton = Path::new("/etc/skel");
    let empty = fs::read_dir(path)?.next().is_none();
    let content = match empty && skeleton.is_dir() {
        true => File::open(skeleton)?,
        false => owner.try_clone()?,
    };
    Ok(Seed { content, owner })
}

/// Copies once. A copy that was cut short by the guest's end begins anew.
fn fill(seed: &Seed, to: &Path) -> io::Result<()> {
    let inside =
        |directory: &File| PathBuf::from(format!("/proc/self/fd/{}/.", directory.as_raw_fd()));
    if to.join(SEEDED).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if entry.file_name() == "lost+found" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    seed::copy(&inside(&seed.content), to)?;
    seed::give(&inside(&seed.owner), to)?;
    nix::unistd::sync();
    File::create(to.join(SEEDED)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_filled_once_and_whole() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join(".profile"), "p").unwrap();
        fs::create_dir_all(to.join("lost+found")).unwrap();
        // Of a copy that was cut short.
        fs::create_dir(to.join("half")).unwrap();
        let seed = || seed_of(&from).unwrap();
        fill(&seed(), &to).unwrap();
        assert_eq!(fs::read_to_string(to.join(".profile")).unwrap(), "p");
        assert!(to.join("lost+found").exists() && !to.join("half").exists());
        fs::remove_file(to.join(".profile")).unwrap();
        fill(&seed(), &to).unwrap();
        assert!(!to.join(".profile").exists());
    }
}
