//! Named volumes: disks that belong to no VM. One file each in `volumes/`, an ext4 file system of their own.
//!
//! Made and removed under `create`. Two VMs that run never share one that either writes: a start looks, and
//! QEMU's own locks on the file (its manual, "Disk image file locking") decide.

use std::fs;
use std::io;
use std::path::PathBuf;

use banger_failpoint::point;
use lib_model::{ByteSize, SCHEMA, VmName, VolumeRecord};
use lib_store::{Context, CreateGuard, Locks, Staged, Store, VmRow};

use crate::disk;
use crate::error::io_error;
use crate::{Life, VmError, life};

/// A volume that is made at its first use.
pub const DEFAULT_VOLUME: ByteSize = ByteSize(10 << 30);

const SUFFIX: &str = "img";

fn directory(context: &Context) -> PathBuf {
    context.data().join("volumes")
}

/// The file of a volume; its name was checked when it was given.
pub(crate) fn file(context: &Context, name: &str) -> PathBuf {
    directory(context).join(name).with_extension(SUFFIX)
}

/// Makes a volume unless it is there; returns its record, which says whether it was made.
///
/// # Errors
/// A size that no file system can have; those of the file system.
pub fn create_volume(
    store: &Store,
    locks: &mut Locks,
    name: &VmName,
    size: ByteSize,
) -> Result<VolumeRecord, VmError> {
    if !(16 << 20..=16 << 40).contains(&size.0) {
        return Err(VmError::OutOfRange {
            what: "volume",
            value: size.to_string(),
            range: "16M to 16T".to_owned(),
        });
    }
    let context = store.context();
    let target = file(context, name.as_str());
    let mut changed = false;
    if !target.exists() {
        let staged = Staged::new(context)?;
        let new = staged.path().join("volume.img");
        let failed = io_error("create", &new);
        let made = point("volume.create")
            .and_then(|()| disk::create(&new))
            .map_err(failed)?;
        disk::format(&made, &new, "banger-volume", size)?;
        made.sync_all().map_err(io_error("sync", &new))?;
        let directory = directory(context);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("create", directory)(error));
            }
            _ => {}
        }
        let create = locks.create()?;
        changed = match point("volume.publish").and_then(|()| fs::hard_link(&new, &target)) {
            Ok(()) => true,
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(io_error("publish", &target)(error)),
        };
        fs::File::open(&directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io_error("sync", &directory))?;
        drop(create);
    }
    let mut record = record(store, name.as_str())?;
    record.changed = changed;
    Ok(record)
}

/// All volumes by name.
///
/// # Errors
/// When they cannot be read.
pub fn volumes(store: &Store) -> Result<Vec<VolumeRecord>, VmError> {
    let directory = directory(store.context());
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", &directory))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error("read", &directory))?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX)
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.iter().map(|name| record(store, name)).collect()
}

/// Removes a volume that no VM has.
///
/// # Errors
/// [`VmError::VolumeInUse`], [`VmError::NoVolume`].
pub fn delete_volume(
    store: &Store,
    locks: &mut Locks,
    name: &VmName,
) -> Result<VolumeRecord, VmError> {
    let create = locks.create()?;
    let mut record = record(store, name.as_str())?;
    if let Some(vm) = record.vms.first() {
        return Err(VmError::VolumeInUse {
            volume: name.to_string(),
            vm: vm.clone(),
        });
    }
    let path = file(store.context(), name.as_str());
    point("volume.delete")
        .and_then(|()| fs::remove_file(&path))
        .map_err(io_error("remove", &path))?;
    drop(create);
    record.changed = true;
    Ok(record)
}

fn record(store: &Store, name: &str) -> Result<VolumeRecord, VmError> {
    use std::os::unix::fs::MetadataExt;
    let path = file(store.context(), name);
    let metadata = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(VmError::NoVolume {
                volume: name.to_owned(),
            });
        }
        metadata => metadata.map_err(io_error("look at", &path))?,
    };
    let uses = |vm: &VmRow| vm.spec.volumes.iter().any(|volume| volume.name == name);
    let vms = store
        .vms()?
        .iter()
        .filter(|vm| uses(vm))
        .map(|vm| vm.name.to_string())
        .collect();
    Ok(VolumeRecord {
        schema: SCHEMA,
        name: name.to_owned(),
        size: ByteSize(metadata.len()),
        used: ByteSize(metadata.blocks() * 512),
        vms,
        changed: false,
    })
}

/// Refuses a VM whose volumes are gone; the caller holds `create`, under which volumes are removed.
///
/// # Errors
/// [`VmError::NoVolume`].
pub(crate) fn check_there(
    _guard: &CreateGuard<'_>,
    context: &Context,
    names: impl Iterator<Item = String>,
) -> Result<(), VmError> {
    for volume in names {
        if !file(context, &volume).exists() {
            return Err(VmError::NoVolume { volume });
        }
    }
    Ok(())
}

/// Refuses a start while another VM runs with one of its volumes, unless both only read it.
///
/// # Errors
/// [`VmError::VolumeInUse`].
pub(crate) fn check_free(store: &Store, vm: &VmRow) -> Result<(), VmError> {
    if vm.spec.volumes.is_empty() {
        return Ok(());
    }
    for other in store.vms()?.iter().filter(|other| other.id != vm.id) {
        let shared = vm.spec.volumes.iter().find(|ours| {
            let theirs = |theirs: &&lib_store::VolumeUse| theirs.name == ours.name;
            let theirs = other.spec.volumes.iter().find(theirs);
            theirs.is_some_and(|theirs| !(theirs.read_only && ours.read_only))
        });
        if let Some(shared) = shared
            && life(store.context(), other) != Life::Dead
        {
            return Err(VmError::VolumeInUse {
                volume: shared.name.clone(),
                vm: other.name.to_string(),
            });
        }
    }
    Ok(())
}
