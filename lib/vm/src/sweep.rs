//! Ephemeral VMs whose maker was killed: their VMM dies with it (or here, when it was killed before the
//! monitor knew), their row and disks are removed here.

use lib_store::{FileLock, Locks, Store, VmRow};

use crate::create::OWNER_LOCK;
use crate::{VmError, stop};

/// Removes ephemeral VMs that have no living maker. Those that somebody works on are
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
        if store.vm_again(&guard, &vm).is_err() {
            continue;
        }
        let owner = store.context().vm(&vm.id).join(OWNER_LOCK);
        if !FileLock::is_held(&owner) {
            stop::delete(store, &guard, &vm, true)?;
            removed.push(vm);
        }
    }
    Ok(removed)
}
