//! Ephemeral VMs whose maker was killed: their VMM died with it, their row and disks are removed here.

use lib_store::{FileLock, Locks, Store, VmRow};

use crate::create::OWNER_LOCK;
use crate::{Life, VmError, life};

/// Removes ephemeral VMs that neither live nor have a living maker. Those that somebody works on are
/// left to them. Returns what was removed.
///
/// # Errors
/// A store that cannot be read or written.
pub fn sweep(store: &mut Store, locks: &mut Locks) -> Result<Vec<VmRow>, VmError> {
    let mut removed = Vec::new();
    for vm in store.vms()?.into_iter().filter(|vm| vm.spec.ephemeral) {
        let Some(guard) = locks.try_vm(&vm.id)? else {
            continue;
        };
        let owner = store.context().vm(&vm.id).join(OWNER_LOCK);
        if !FileLock::is_held(&owner) && life(store.context(), &vm) == Life::Dead {
            store.delete_vm(&guard, &vm.id)?;
            removed.push(vm);
        }
    }
    Ok(removed)
}
