//! Volumes: disks of their own below the root. Runs inside the image's root, whose links lead nowhere
//! else.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_wire::config::Volume;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::grow::grow;
use super::{BootError, While, disk, seed};
use crate::spawn::DEFAULT_PATH;
use crate::{account, console};

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
    let from = Path::new(&volume.seed_from);
    let seed = volume.seed.then(|| seed_of(path, from));
    let seed = seed.transpose().context(on)?;
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
    File::open(path)
        .and_then(|root| grow(device, &root))
        .context(|| format!("growing the volume on {}", volume.path))?;
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

/// `from` is the image's own seed, if it has one; one that is not there is said and not missed.
fn seed_of(path: &Path, from: &Path) -> io::Result<Seed> {
    let owner = File::open(path)?;
    if !from.as_os_str().is_empty() {
        match File::open(from) {
            Ok(content) => return Ok(Seed { content, owner }),
            Err(error) => {
                let from = from.display();
                console::say(&format!("the image's work-seed {from}: {error}"));
            }
        }
    }
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
    if seed.content.metadata()?.is_dir() {
        seed::copy(&inside(&seed.content), to)?;
    } else {
        unpack(&seed.content, to)?;
    }
    seed::give(&inside(&seed.owner), to)?;
    nix::unistd::sync();
    File::create(to.join(SEEDED)).map(drop)
}

/// Unpacks with the image's own tar, which knows how its archive is packed; by a path, as it looks at the
/// file twice for that.
fn unpack(archive: &File, to: &Path) -> io::Result<()> {
    let path = format!("/proc/{}/fd/{}", std::process::id(), archive.as_raw_fd());
    let mut tar = Command::new("tar");
    tar.arg("-xpf").arg(path).arg("-C").arg(to);
    tar.env_clear().env("PATH", DEFAULT_PATH);
    let output = tar
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("the image's tar: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or("it says nothing");
    Err(io::Error::other(format!("the image's tar: {line}")))
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
        let seed = || seed_of(&from, Path::new("")).unwrap();
        fill(&seed(), &to).unwrap();
        assert_eq!(fs::read_to_string(to.join(".profile")).unwrap(), "p");
        assert!(to.join("lost+found").exists() && !to.join("half").exists());
        fs::remove_file(to.join(".profile")).unwrap();
        fill(&seed(), &to).unwrap();
        assert!(!to.join(".profile").exists());
    }

    #[test]
    fn a_seed_of_the_images_own_is_a_directory_or_an_archive() {
        let place = tempfile::tempdir().unwrap();
        let (home, own) = (place.path().join("home"), place.path().join("own"));
        fs::create_dir_all(own.join("deep")).unwrap();
        fs::create_dir(&home).unwrap();
        fs::write(home.join("of-the-home"), "").unwrap();
        fs::write(own.join("deep/file"), "seed").unwrap();
        let archive = place.path().join("own.tar.gz");
        let packed = Command::new("tar")
            .arg("-czf")
            .arg(&archive)
            .arg("-C")
            .arg(&own)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        for (from, expected) in [
            (own.clone(), "seed"),
            (archive, "seed"),
            (place.path().join("missing"), ""),
        ] {
            let to = tempfile::tempdir().unwrap();
            fill(&seed_of(&home, &from).unwrap(), to.path()).unwrap();
            let text = fs::read_to_string(to.path().join("deep/file")).unwrap_or_default();
            assert_eq!(text, expected, "{}", from.display());
            assert_eq!(to.path().join("of-the-home").exists(), expected.is_empty());
        }
        let damaged = place.path().join("damaged");
        fs::write(&damaged, "no archive").unwrap();
        let to = tempfile::tempdir().unwrap();
        let error = fill(&seed_of(&home, &damaged).unwrap(), to.path()).unwrap_err();
        assert!(error.to_string().contains("tar"), "{error}");
        assert!(!to.path().join(SEEDED).exists());
    }
}
