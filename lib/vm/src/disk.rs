//! A VM's own disk: how it lies over its image, how it is made, and how it grows.
//!
//! The image is opened for reading by all kinds; only `copy` reads it once and then no more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use banger_failpoint::point;
use banger_wire::config::{Disk, Root};
use lib_model::{ByteSize, ImageRecord};
use lib_store::{Context, VmRow};
use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::unistd::{Whence, lseek};

use crate::error::io_error;
use crate::guest_config::serial;
use crate::{DiskPlan, Format, VmError, qcow2};

/// How a VM's own disk lies over its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskKind {
    /// A file system of its own, joined with the image by overlayfs in the guest.
    #[default]
    Overlay,
    /// Written blocks on a disk of its own, over the image by the guest's device mapper.
    Snapshot,
    /// A copy of the image.
    Copy,
    /// Written clusters in a qcow2 file, over the image by QEMU.
    Qcow2,
}

impl DiskKind {
    /// As recorded with the VM.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskKind::Overlay => "overlay",
            DiskKind::Snapshot => "snapshot",
            DiskKind::Copy => "copy",
            DiskKind::Qcow2 => "qcow2",
        }
    }

    /// The disk's file in the VM's directory, the `generation`th that there was.
    pub(crate) fn file(self, generation: u32) -> String {
        let suffix = match self {
            DiskKind::Qcow2 => "qcow2",
            _ => "img",
        };
        match generation {
            0 => format!("data.{suffix}"),
            generation => format!("data-{generation}.{suffix}"),
        }
    }

    /// Of a VM.
    pub(crate) fn path(context: &Context, vm: &VmRow) -> PathBuf {
        let kind: DiskKind = vm.spec.disk_kind.parse().unwrap_or_default();
        context.vm(&vm.id).join(kind.file(vm.spec.generation))
    }

    /// Refuses an image that the kind cannot lie over, or a disk that is smaller than it.
    ///
    /// # Errors
    /// [`VmError::DiskKind`], [`VmError::OutOfRange`].
    pub(crate) fn check(self, image: &ImageRecord, size: ByteSize) -> Result<(), VmError> {
        if self == DiskKind::Overlay {
            return Ok(());
        }
        if image.filesystem != "ext4" {
            return Err(VmError::DiskKind {
                kind: self.as_str(),
                filesystem: image.filesystem.clone(),
            });
        }
        if size.0 < image.size.0 {
            return Err(VmError::OutOfRange {
                what: "disk",
                value: size.to_string(),
                range: format!("{} or more, the size of the image", image.size),
            });
        }
        Ok(())
    }

    /// Makes the disk's file, durable.
    ///
    /// # Errors
    /// Those of the file system; for `overlay`, of the formatting.
    pub(crate) fn make(self, path: &Path, size: ByteSize, image: &Path) -> Result<(), VmError> {
        let disk = point("vm.disk.create")
            .and_then(|()| create(path))
            .map_err(io_error("create", path))?;
        let failed = io_error("write", path);
        point("vm.disk.format").map_err(&failed)?;
        match self {
            DiskKind::Overlay => format(&disk, path, "banger-data", size)?,
            DiskKind::Snapshot => disk.set_len(exceptions(size.0)).map_err(&failed)?,
            DiskKind::Copy => copy_sparse(image, &disk)
                .and_then(|()| disk.set_len(size.0))
                .map_err(&failed)?,
            DiskKind::Qcow2 => qcow2::write(&disk, size.0, image).map_err(&failed)?,
        }
        point("vm.disk.sync")
            .and_then(|()| disk.sync_all())
            .map_err(io_error("sync", path))
    }

    /// Gives the disk the size that `set` recorded; the agent grows what is on it. Never shrinks.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn grow(self, path: &Path, size: u64) -> Result<(), VmError> {
        let mut options = OpenOptions::new();
        let disk = options
            .read(true)
            .write(true)
            .open(path)
            .map_err(io_error("open", path))?;
        let failed = io_error("grow", path);
        let (length, wanted) = match self {
            DiskKind::Qcow2 => (qcow2::size(&disk).map_err(&failed)?, size),
            DiskKind::Snapshot => (disk.metadata().map_err(&failed)?.len(), exceptions(size)),
            DiskKind::Overlay | DiskKind::Copy => (disk.metadata().map_err(&failed)?.len(), size),
        };
        if length >= wanted {
            return Ok(());
        }
        point("start.grow-disk")
            .and_then(|()| match self {
                DiskKind::Qcow2 => qcow2::set_size(&disk, wanted),
                _ => disk.set_len(wanted),
            })
            .map_err(&failed)
    }

    /// Whether the disk grows while the VM runs. A snapshot is a device of the guest's own making.
    pub(crate) fn grows_live(self) -> bool {
        self != DiskKind::Snapshot
    }

    /// What the VMM has to attach: the image where it is read, and the disk.
    pub(crate) fn plans(self, image: PathBuf, disk: PathBuf) -> Vec<DiskPlan> {
        let plan = |path, serial, read_only, format| DiskPlan {
            path,
            serial,
            read_only,
            format,
        };
        match self {
            DiskKind::Overlay | DiskKind::Snapshot => vec![
                plan(image, serial::IMAGE.to_owned(), true, Format::Raw),
                plan(disk, serial::DATA.to_owned(), false, Format::Raw),
            ],
            DiskKind::Copy => vec![plan(disk, serial::DATA.to_owned(), false, Format::Raw)],
            DiskKind::Qcow2 => {
                let format = Format::Qcow2 { backing: image };
                vec![plan(disk, serial::DATA.to_owned(), false, format)]
            }
        }
    }

    /// How the guest puts its root together.
    pub(crate) fn root(self, image: &ImageRecord, size: ByteSize) -> Root {
        let disk = |serial: &str, filesystem: &str| Disk {
            serial: serial.into(),
            filesystem: filesystem.into(),
        };
        let image = disk(serial::IMAGE, &image.filesystem);
        match self {
            DiskKind::Overlay => Root::Overlay {
                image,
                data: disk(serial::DATA, "ext4"),
            },
            DiskKind::Snapshot => Root::Snapshot {
                image,
                exceptions: serial::DATA.into(),
                // Whole chunks of 4 KiB.
                bytes: size.0 & !0xfff,
            },
            DiskKind::Copy | DiskKind::Qcow2 => Root::Disk {
                image: disk(serial::DATA, "ext4"),
            },
        }
    }
}

impl FromStr for DiskKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            DiskKind::Overlay,
            DiskKind::Snapshot,
            DiskKind::Copy,
            DiskKind::Qcow2,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| format!("`{text}` is none of overlay, snapshot, copy, qcow2"))
    }
}

/// Removes disks of a VM that are not its own any more, or not yet: a change of the image that was cut short
/// leaves one. Nobody uses them, as the caller holds the VM's lock and the VM does not run.
///
/// # Errors
/// Those of the file system.
pub(crate) fn remove_others(context: &Context, vm: &VmRow) -> io::Result<()> {
    let own = DiskKind::path(context, vm);
    for entry in std::fs::read_dir(context.vm(&vm.id))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let disk = name.is_some_and(|name| {
            name.starts_with("data") && (name.ends_with(".img") || name.ends_with(".qcow2"))
        });
        if disk && path != own {
            point("vm.disk.remove").and_then(|()| std::fs::remove_file(&path))?;
        }
    }
    Ok(())
}

/// A new file that only its owner may read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Writes an empty ext4 file system with an identity of its own.
pub(crate) fn format(disk: &File, path: &Path, label: &str, size: ByteSize) -> Result<(), VmError> {
    let mut uuid = [0; 16];
    let mut hash_seed = [0; 16];
    for bytes in [&mut uuid, &mut hash_seed] {
        getrandom::fill(bytes).map_err(|e| io_error("name", path)(io::Error::other(e)))?;
    }
    let options = lib_fs::Options {
        label: label.into(),
        uuid,
        hash_seed,
        ..lib_fs::Options::default()
    };
    lib_fs::format_empty(disk, size.0, &options).map_err(|source| VmError::DataDisk {
        size: size.to_string(),
        source,
    })?;
    Ok(())
}

/// Room for every block of the device, and for the lists of them: 16 bytes for each 4 KiB, and a header
/// (the kernel's drivers/md/dm-snap-persistent.c).
fn exceptions(size: u64) -> u64 {
    (size + size / 256 + (1 << 20)).next_multiple_of(4096)
}

/// Copies data and leaves holes; where the file system can, blocks are shared (copy_file_range(2)).
fn copy_sparse(from: &Path, to: &File) -> io::Result<()> {
    const MOST: i64 = 1 << 30;
    let from = File::open(from)?;
    let length = from.metadata()?.len().cast_signed();
    to.set_len(length.cast_unsigned())?;
    let mut at = 0;
    while at < length {
        let start = match lseek(&from, at, Whence::SeekData) {
            Ok(start) => start,
            // No data behind.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = lseek(&from, start, Whence::SeekHole)?;
        at = start;
        while at < end {
            let (mut read, mut write) = (at, at);
            let most = usize::try_from((end - at).min(MOST)).unwrap_or(usize::MAX);
            match copy_file_range(&from, Some(&mut read), to, Some(&mut write), most)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                copied => at += copied as i64,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_has_the_data_and_the_holes() {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        let to = place.path().join("to");
        copy_sparse(&from, &create(&to).unwrap()).unwrap();
        let copy = File::open(&to).unwrap();
        let mut middle = [0; 6];
        copy.read_exact_at(&mut middle, 32 << 20).unwrap();
        assert_eq!(&middle, b"middle");
        let metadata = copy.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (64 << 20, 0o600));
        assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
    }

    #[test]
    fn every_kind_has_its_name_and_grows() {
        for name in ["overlay", "snapshot", "copy", "qcow2"] {
            let kind: DiskKind = name.parse().unwrap();
            assert_eq!(kind.as_str(), name);
            let place = tempfile::tempdir().unwrap();
            let (image, path) = (place.path().join("image"), place.path().join(kind.file(0)));
            std::fs::write(&image, vec![1; 1 << 20]).unwrap();
            kind.make(&path, ByteSize(32 << 20), &image).unwrap();
            let before = std::fs::metadata(&path).unwrap().len();
            kind.grow(&path, 48 << 20).unwrap();
            kind.grow(&path, 40 << 20).unwrap();
            match kind {
                DiskKind::Qcow2 => {
                    assert_eq!(qcow2::size(&File::open(&path).unwrap()).unwrap(), 48 << 20);
                }
                _ => {
                    let after = std::fs::metadata(&path).unwrap().len();
                    assert!(
                        after >= 48 << 20 && after > before,
                        "{name}: {before} {after}"
                    );
                }
            }
        }
        assert!("btrfs".parse::<DiskKind>().is_err());
    }
}
