//! Changing what a VM was made with. It is recorded first; a running VM's disk then grows at once, where its
//! kind can, and all else takes effect at the next start.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use banger_wire::monitor::{ControlReply, ControlRequest};
use lib_model::{ByteSize, ImageRecord, KernelRecord, VmName};
use lib_store::{Context, Store, VmGuard, VmRow};

use crate::error::io_error;
use crate::guest_config::serial;
use crate::{
    Accel, Control, CreateRequest, DiskKind, Interrupt, Life, Network, VmError, bridge, disk, init,
    life,
};

/// For the guest to write its new groups, emulated, on a busy machine.
const GROWTH: Duration = Duration::from_secs(120);

/// What to change; nothing is kept as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Another name.
    pub name: Option<VmName>,
    /// Virtual processors.
    pub cpus: Option<u32>,
    /// Memory.
    pub memory: Option<ByteSize>,
    /// Largest size of the VM's own disk; it can only grow.
    pub disk: Option<ByteSize>,
    /// Network mode.
    pub network: Option<Network>,
    /// Acceleration.
    pub accel: Option<Accel>,
    /// Stopped by its monitor after so long without use; zero is never.
    pub idle_stop: Option<Duration>,
    /// Another image, under a new root; work disk, volumes and shares stay.
    pub image: Option<ImageRecord>,
    /// What was written to the root may go with the old image.
    pub discard_root: bool,
    /// Another kernel.
    pub kernel: Option<KernelRecord>,
    /// Processor time at most, in hundredths of one processor; zero is no limit.
    pub cpu_limit: Option<u32>,
    /// Memory of the host at most; zero is no limit.
    pub memory_limit: Option<ByteSize>,
}

/// What a change comes to.
#[derive(Debug)]
pub struct Changed {
    /// The VM as it is then.
    pub vm: VmRow,
    /// Names of the fields that differ.
    pub fields: Vec<&'static str>,
    /// Those of them that are in effect although the VM runs; without a doing, that would be.
    pub live: Vec<&'static str>,
    /// Those that wait for its next start.
    pub waiting: Vec<&'static str>,
    /// Why one waits that need not have.
    pub trouble: Option<String>,
}

/// Records the change, unless it is only asked what it would come to.
///
/// # Errors
/// Values that no VM can have, a disk that would shrink, a taken name; then nothing is changed.
pub fn set(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    vm: &VmRow,
    change: &Change,
    dry_run: bool,
) -> Result<Changed, VmError> {
    let mut changed = plan(vm, change)?;
    let new_root = changed.vm.spec.generation != vm.spec.generation;
    if new_root {
        check_image(store, vm, &mut changed.vm, change)?;
    }
    if life(store.context(), vm) != Life::Dead {
        let kind: DiskKind = vm.spec.disk_kind.parse().unwrap_or_default();
        let live = |field: &&str| match *field {
            "name" => true,
            "disk" => kind.grows_live(),
            _ => false,
        };
        (changed.live, changed.waiting) = changed.fields.iter().partition(|field| live(field));
    }
    if !dry_run && !changed.fields.is_empty() {
        let (id, spec) = (&vm.id, &mut changed.vm.spec);
        if spec.network == Network::Bridge.as_str() {
            let address = bridge::reserve(store.context(), id, &changed.vm.name, None)?;
            spec.address = Some(address);
        } else if spec.address.is_some() && life(store.context(), vm) == Life::Dead {
            bridge::release(store.context(), id);
            spec.address = None;
        }
        if new_root {
            make_root(store.context(), &changed.vm)?;
        }
        let create = guard.create()?;
        store.update_vm(&create, &changed.vm)?;
        drop(create);
        if new_root {
            let context = store.context();
            let directory = context.vm(&vm.id);
            disk::remove_others(context, &changed.vm).map_err(io_error("clear", directory))?;
        }
        let fields = changed.fields.join(", ");
        store.happened(&vm.id, &changed.vm.name, "changed", Some(&fields));
        if changed.live.contains(&"disk")
            && let Err(error) = grow(store.context(), &changed.vm)
        {
            changed.live.retain(|field| *field != "disk");
            changed.waiting.push("disk");
            changed.trouble = Some(error);
        }
    }
    Ok(changed)
}

/// Refuses an image that cannot take the place of the VM's own, or not yet; takes over its command.
fn check_image(store: &Store, vm: &VmRow, new: &mut VmRow, change: &Change) -> Result<(), VmError> {
    let Some(image) = &change.image else {
        return Ok(());
    };
    if life(store.context(), vm) != Life::Dead {
        return Err(VmError::ImageWhileRunning {
            vm: vm.name.to_string(),
        });
    }
    let architecture = match &change.kernel {
        Some(kernel) => kernel.architecture.clone(),
        None => store.kernel(vm.kernel.as_str())?.architecture,
    };
    if image.architecture != architecture {
        return Err(VmError::Architecture {
            image: new.spec.image_name.clone(),
            architecture: image.architecture.clone(),
            host: architecture,
        });
    }
    let kind: DiskKind = new.spec.disk_kind.parse().unwrap_or_default();
    kind.check(image, new.spec.disk)?;
    let old = store.image(vm.image.as_str())?;
    init::follow_image(&mut new.spec, &old.config, &image.config);
    if change.discard_root {
        return Ok(());
    }
    let used = std::fs::metadata(DiskKind::path(store.context(), vm));
    Err(VmError::DiscardsRoot {
        vm: vm.name.to_string(),
        image: new.spec.image_name.clone(),
        used: ByteSize(used.map_or(0, |disk| disk.blocks() * 512)),
    })
}

/// Makes an ephemeral VM one that stays: from now on neither the end of its maker nor that of `tether` ends
/// it. Whoever dies on the way leaves it either as it was or kept.
///
/// # Errors
/// When the row cannot be written.
pub fn keep(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    vm: &VmRow,
    tether: Option<&mut Control>,
) -> Result<VmRow, VmError> {
    let mut kept = store.vm_again(guard, vm)?;
    if !kept.spec.ephemeral {
        return Ok(kept);
    }
    if let Some(tether) = tether {
        // A VM that is gone has no life left that could depend on us.
        let patience = Some(Duration::from_secs(10));
        match tether.ask(&ControlRequest::Untether, patience, &Interrupt::never()) {
            Ok(_) | Err(VmError::Monitor { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    kept.spec.ephemeral = false;
    let create = guard.create()?;
    store.update_vm(&create, &kept)?;
    store.happened(&kept.id, &kept.name, "changed", Some("kept"));
    Ok(kept)
}

/// The disk of the new root. Until the row says so, it is nobody's.
fn make_root(context: &Context, vm: &VmRow) -> Result<(), VmError> {
    let path = DiskKind::path(context, vm);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io_error("remove", path)(error));
        }
        _ => {}
    }
    let kind: DiskKind = vm.spec.disk_kind.parse().unwrap_or_default();
    let made = kind.make(&path, vm.spec.disk, &context.image_disk(&vm.image));
    if made.is_err() {
        // Why it failed matters more.
        let _ = std::fs::remove_file(&path);
    }
    made
}

/// Grows the disk of a running VM and what is on it; what fails is done at its next start.
fn grow(context: &Context, vm: &VmRow) -> Result<(), String> {
    let request = ControlRequest::GrowDisk {
        disk: serial::DATA.to_owned(),
        bytes: vm.spec.disk.0,
    };
    let mut control = Control::connect(context, vm).map_err(|error| error.to_string())?;
    match control.ask(&request, Some(GROWTH), &Interrupt::never()) {
        Ok(Some(ControlReply::Done)) => Ok(()),
        Ok(Some(ControlReply::Error { message })) => Err(message),
        Ok(Some(_)) => Err("the monitor gives an answer that does not fit the question".to_owned()),
        Ok(None) => Err(format!("no answer after {} s", GROWTH.as_secs())),
        Err(error) => Err(error.to_string()),
    }
}

fn plan(vm: &VmRow, change: &Change) -> Result<Changed, VmError> {
    let mut new = vm.clone();
    let spec = &mut new.spec;
    let mut fields = Vec::new();
    let mut differ = |field: &'static str, differs: bool| {
        if differs {
            fields.push(field);
        }
    };
    if let Some(name) = &change.name {
        differ("name", *name != vm.name);
        new.name = name.clone();
    }
    if let Some(cpus) = change.cpus {
        differ("cpus", cpus != spec.cpus);
        spec.cpus = cpus;
    }
    if let Some(memory) = change.memory {
        differ("memory", memory != spec.memory);
        spec.memory = memory;
    }
    if let Some(disk) = change.disk {
        if disk.0 < spec.disk.0 {
            return Err(VmError::OutOfRange {
                what: "disk",
                value: disk.to_string(),
                range: format!("{} or more: a disk can only grow", spec.disk),
            });
        }
        differ("disk", disk != spec.disk);
        spec.disk = disk;
    }
    if let Some(network) = change.network {
        differ("network", network.as_str() != spec.network);
        spec.network = network.as_str().to_owned();
    }
    if let Some(accel) = change.accel {
        differ("accel", accel.as_str() != spec.accel);
        spec.accel = accel.as_str().to_owned();
    }
    if let Some(idle) = change.idle_stop {
        let seconds = Some(idle.as_secs()).filter(|seconds| *seconds > 0);
        differ("idle-stop", seconds != spec.idle_stop_s);
        spec.idle_stop_s = seconds;
    }
    if let Some(limit) = change.cpu_limit {
        let limit = Some(limit).filter(|limit| *limit > 0);
        differ("cpu-limit", limit != spec.cpu_limit);
        spec.cpu_limit = limit;
    }
    if let Some(limit) = change.memory_limit {
        let limit = Some(limit).filter(|limit| limit.0 > 0);
        differ("memory-limit", limit != spec.memory_limit);
        spec.memory_limit = limit;
    }
    if let Some(image) = change.image.as_ref().filter(|image| image.id != vm.image) {
        differ("image", true);
        spec.generation += 1;
        spec.image_name = image
            .names
            .first()
            .map_or_else(|| image.id.to_string(), Clone::clone);
        new.image = image.id.clone();
    }
    if let Some(kernel) = &change.kernel {
        differ("kernel", kernel.id != vm.kernel);
        new.kernel = kernel.id.clone();
    }
    CreateRequest::of(&new).check()?;
    Ok(Changed {
        vm: new,
        fields,
        live: Vec::new(),
        waiting: Vec::new(),
        trouble: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_model::{ImageId, KernelId, VmId};
    use lib_store::VmSpec;

    fn row() -> VmRow {
        VmRow {
            id: VmId::random().unwrap(),
            name: VmName::try_from("dev").unwrap(),
            image: ImageId::random().unwrap(),
            kernel: KernelId::random().unwrap(),
            spec: VmSpec {
                image_name: "i".into(),
                cpus: 1,
                memory: ByteSize(1 << 30),
                disk: ByteSize(1 << 30),
                network: "user".into(),
                address: None,
                vmm: "qemu".into(),
                accel: "auto".into(),
                entrypoint: Vec::new(),
                ephemeral: false,
                idle_stop_s: Some(600),
                publish: Vec::new(),
                init: "none".into(),
                env: Vec::new(),
                disk_kind: "overlay".into(),
                machine: String::new(),
                work_disk: None,
                volumes: Vec::new(),
                shares: Vec::new(),
                generation: 0,
                cpu_limit: None,
                memory_limit: None,
                unknown: serde_json::Map::new(),
                share_store: false,
            },
            created_ms: 1,
        }
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let change = Change {
            cpus: Some(2),
            disk: Some(ByteSize(1 << 30)),
            idle_stop: Some(Duration::ZERO),
            ..Change::default()
        };
        let changed = plan(&row(), &change).unwrap();
        assert_eq!(changed.fields, ["cpus", "idle-stop"]);
        assert_eq!(
            (changed.vm.spec.cpus, changed.vm.spec.idle_stop_s),
            (2, None)
        );
        assert!(plan(&row(), &Change::default()).unwrap().fields.is_empty());
    }

    #[test]
    fn a_disk_does_not_shrink_and_limits_hold() {
        let smaller = Change {
            disk: Some(ByteSize(1 << 29)),
            ..Change::default()
        };
        let error = plan(&row(), &smaller).unwrap_err().to_string();
        assert!(error.contains("can only grow"), "{error}");
        let none = Change {
            cpus: Some(0),
            ..Change::default()
        };
        assert!(matches!(
            plan(&row(), &none),
            Err(VmError::OutOfRange { what: "cpus", .. })
        ));
    }
}
