//! Changing what a VM was made with. What runs is not touched: it takes effect at the next start.

use std::time::Duration;

use banger_wire::monitor::ControlRequest;
use lib_model::{ByteSize, VmName};
use lib_store::{Store, VmGuard, VmRow};

use crate::{Accel, Control, CreateRequest, Interrupt, Life, Network, VmError, bridge, life};

/// What to change; nothing is kept as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
}

/// What a change comes to.
#[derive(Debug)]
pub struct Changed {
    /// The VM as it is then.
    pub vm: VmRow,
    /// Names of the fields that differ.
    pub fields: Vec<&'static str>,
    /// The VM runs, and some of them wait for its next start.
    pub needs_restart: bool,
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
    let needs_restart = changed.fields.iter().any(|field| *field != "name")
        && life(store.context(), vm) != Life::Dead;
    if !dry_run && !changed.fields.is_empty() {
        let (id, spec) = (&vm.id, &mut changed.vm.spec);
        if spec.network == Network::Bridge.as_str() {
            let address = bridge::reserve(store.context(), id, &changed.vm.name, None)?;
            spec.address = Some(address);
        } else if spec.address.is_some() && life(store.context(), vm) == Life::Dead {
            bridge::release(store.context(), id);
            spec.address = None;
        }
        let create = guard.create()?;
        store.update_vm(&create, &vm.id, &changed.vm.name, &changed.vm.spec)?;
        let fields = changed.fields.join(", ");
        store.happened(&vm.id, &changed.vm.name, "changed", Some(&fields));
    }
    Ok(Changed {
        needs_restart,
        ..changed
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
    store.update_vm(&create, &kept.id, &kept.name, &kept.spec)?;
    store.happened(&kept.id, &kept.name, "changed", Some("kept"));
    Ok(kept)
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
    CreateRequest::of(&new).check()?;
    Ok(Changed {
        vm: new,
        fields,
        needs_restart: false,
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
