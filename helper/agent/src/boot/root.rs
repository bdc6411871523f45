//! Puts `/` together from the disks and makes it the root.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use banger_wire::config::{Disk, GuestConfig, Init, Root};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

use super::grow::grow;
use super::{BootError, While, disk, mapper, share, state, store, volume};
use crate::sys;

const NEW_ROOT: &str = "/newroot";
const IMAGE: &str = "/image";
const DATA: &str = "/data";
const MODULES: &str = "/lib/modules";

/// What is still there but has no path any more.
#[derive(Debug)]
pub(super) struct Hidden {
    /// Directories on the writable file systems, for the shutdown.
    pub(super) disks: Vec<File>,
    pub(super) initramfs: File,
}

/// Where an init finds the data disk below the root, to make it read-only at shutdown: what is there is not
/// unmounted by systemd ("initrd interface" in its documentation), but made read-only as all else.
const DATA_FOR_INIT: &str = "/run/initramfs/banger-data";

/// Mounts the root and the modules and enters the root.
///
/// # Errors
/// A disk is missing or cannot be mounted, or the image's tree does not allow it.
pub(super) fn enter(config: &GuestConfig) -> Result<Hidden, BootError> {
    let disks = match &config.root {
        Root::Disk { image } => {
            let device = mount_disk(image, NEW_ROOT, MsFlags::empty())?;
            grow_root(&device, NEW_ROOT)?;
            Vec::new()
        }
        Root::Snapshot {
            image,
            exceptions,
            bytes,
        } => {
            let (origin, exceptions) = (disk::find(&image.serial)?, disk::find(exceptions)?);
            let device = mapper::snapshot(&origin, &exceptions, *bytes)?;
            mount_device(&device, image, NEW_ROOT, MsFlags::empty())?;
            grow_root(&device, NEW_ROOT)?;
            Vec::new()
        }
        Root::Overlay { image, data } => {
            mount_disk(image, IMAGE, MsFlags::MS_RDONLY)?;
            let device = mount_disk(data, DATA, MsFlags::empty())?;
            grow_root(&device, DATA)?;
            mount_overlay()?;
            if config.init != Init::Agent {
                show_data().context(|| format!("showing {DATA} at {DATA_FOR_INIT}"))?;
            }
            vec![File::open(DATA).context(|| format!("opening {DATA}"))?]
        }
    };
    let modules = config.modules.as_ref();
    let modules = modules
        .map(|m| Ok((disk::find(&m.serial)?, m)))
        .transpose()?;
    let volumes = volume::find(&config.volumes)?;
    let initramfs = File::open("/").context(|| "opening the initramfs".to_owned())?;
    move_kernel_mounts()?;
    switch_root().context(|| "entering the image's root".to_owned())?;
    if let Some((device, modules)) = modules {
        // From here links resolve inside the image: /lib may be a link to usr/lib, or hostile.
        let mounted = make_modules_directory().and_then(|()| {
            let kind = Some(modules.filesystem.as_str());
            Ok(mount(
                Some(&device),
                MODULES,
                kind,
                MsFlags::MS_RDONLY,
                None::<&str>,
            )?)
        });
        mounted.context(|| format!("mounting the modules {} on {MODULES}", device.display()))?;
    }
    if let Some(data) = disks.first() {
        state::bind(data);
    }
    volume::mount_all(&volumes, &config.process.user)?;
    share::mount_all(&config.shares)?;
    if let Some(host) = &config.host_store {
        store::mount_over(host, disks.first())?;
    }
    Ok(Hidden { disks, initramfs })
}

fn grow_root(device: &Path, root: &str) -> Result<(), BootError> {
    File::open(root)
        .and_then(|root| grow(device, &root))
        .map(drop)
        .context(|| format!("growing the file system of {}", device.display()))
}

/// Returns the device.
fn mount_disk(disk: &Disk, target: &str, flags: MsFlags) -> Result<PathBuf, BootError> {
    let device = disk::find(&disk.serial)?;
    mount_device(&device, disk, target, flags)?;
    Ok(device)
}

fn mount_device(device: &Path, disk: &Disk, target: &str, flags: MsFlags) -> Result<(), BootError> {
    let kind = Some(disk.filesystem.as_str());
    fs::create_dir_all(target)
        .and_then(|()| Ok(mount(Some(device), target, kind, flags, None::<&str>)?))
        .context(|| {
            format!(
                "mounting {} (serial {}) as {} on {target}",
                device.display(),
                disk.serial,
                disk.filesystem
            )
        })
}

fn mount_overlay() -> Result<(), BootError> {
    // index and metacopy stay off: with them an overlay is refused after its lower layer moved to
    // another file system, and a data disk outlives its image's file (overlayfs.rst).
    let options = format!(
        "lowerdir={IMAGE},upperdir={DATA}/upper,workdir={DATA}/work,redirect_dir=on,index=off,metacopy=off"
    );
    [&format!("{DATA}/upper"), &format!("{DATA}/work"), NEW_ROOT]
        .into_iter()
        .try_for_each(|directory| match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        })
        .and_then(|()| {
            let kind = Some("overlay");
            Ok(mount(
                kind,
                NEW_ROOT,
                kind,
                MsFlags::empty(),
                Some(options.as_str()),
            )?)
        })
        .context(|| "joining image and data disk by overlayfs".to_owned())
}

fn show_data() -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(DATA_FOR_INIT)?;
    let bind = MsFlags::MS_BIND;
    Ok(mount(
        Some(DATA),
        DATA_FOR_INIT,
        None::<&str>,
        bind,
        None::<&str>,
    )?)
}

/// Into directories that are held open, so that a link cannot lead out of the image between a look and the mount.
fn move_kernel_mounts() -> Result<(), BootError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(NEW_ROOT, flags, Mode::empty()).context(|| format!("opening {NEW_ROOT}"))?;
    for name in ["dev", "sys", "run", "proc"] {
        directory_inside(&root, name)
            .and_then(|target| {
                nix::unistd::fchdir(&target)?;
                let source = format!("/{name}");
                let flags = MsFlags::MS_MOVE;
                Ok(mount(
                    Some(source.as_str()),
                    ".",
                    None::<&str>,
                    flags,
                    None::<&str>,
                )?)
            })
            .context(|| format!("moving /{name} into the image"))?;
    }
    Ok(())
}

/// Opens a directory at the top of the image, made when it is missing. A link resolves inside.
fn directory_inside(root: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(root.as_fd(), name, how) {
        Err(Errno::ENOENT) => {
            mkdirat(root, name, Mode::from_bits_truncate(0o755))?;
            Ok(openat2(root.as_fd(), name, how)?)
        }
        opened => Ok(opened?),
    }
}

/// Makes `/lib/modules` inside the image, where `/lib` may be a link to a directory that is missing.
fn make_modules_directory() -> io::Result<()> {
    match fs::create_dir_all(MODULES) {
        Err(_) if Path::new("/lib").is_symlink() => {
            fs::create_dir_all(Path::new("/").join(fs::read_link("/lib")?))?;
            fs::create_dir_all(MODULES)
        }
        made => made,
    }
}

fn switch_root() -> io::Result<()> {
    nix::unistd::chdir(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")?;
    Ok(())
}

impl Hidden {
    /// For the agent beside init, which was given the initramfs.
    ///
    /// # Errors
    /// When the data disk is there and cannot be opened.
    pub(super) fn beside(initramfs: File) -> Result<Hidden, BootError> {
        let disks = match File::open(DATA_FOR_INIT) {
            Ok(data) => vec![data],
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(BootError(format!("opening {DATA_FOR_INIT}: {error}"))),
        };
        Ok(Hidden { disks, initramfs })
    }

    /// Frees the initramfs' memory and forgets the configuration in it, when nobody works; for when the guest is ready.
    /// What cannot be freed is lost, not wrong.
    pub(super) fn free_initramfs(&self) {
        let Ok(initramfs) = self.initramfs.try_clone() else {
            return;
        };
        let free = move || {
            let _ = sys::only_when_idle();
            if let Ok(metadata) = initramfs.metadata() {
                let path = format!("/proc/self/fd/{}", initramfs.as_raw_fd());
                free_below(Path::new(&path), metadata.dev());
            }
        };
        let _ = std::thread::Builder::new().spawn(free);
    }
}

fn free_below(directory: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        match fs::symlink_metadata(&path) {
            // Another device is a mount: the new root, not ours to delete.
            Ok(metadata) if metadata.dev() != device => {}
            Ok(metadata) if metadata.is_dir() => {
                free_below(&path, device);
                let _ = fs::remove_dir(&path);
            }
            Ok(_) => {
                let _ = fs::remove_file(&path);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(root: &Path, name: &str) -> io::Result<std::path::PathBuf> {
        let root = OwnedFd::from(File::open(root)?);
        let fd = directory_inside(&root, name)?;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    #[test]
    fn links_of_a_hostile_image_stay_inside_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        for (link, target) in [
            ("up", "../../../../real"),
            ("absolute", "/real"),
            ("out", "/etc"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        assert_eq!(inside(&root, "up").unwrap(), root.join("real"));
        assert_eq!(inside(&root, "absolute").unwrap(), root.join("real"));
        assert_eq!(inside(&root, "new").unwrap(), root.join("new"));
        // A link to nowhere inside the image, whatever the host has there.
        assert!(inside(&root, "out").is_err());
    }
}
