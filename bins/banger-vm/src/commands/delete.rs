//! `banger-vm delete`.

use lib_cli::{Failure, Session};
use lib_model::Exit;

use crate::cli::DeleteArgs;
use crate::target;

/// Removes the VMs and their disks, and prints their last records.
pub(crate) fn run(session: &mut Session, args: &DeleteArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    for selector in target::selectors(&args.vms.vms)? {
        let vm = match store.vm(&selector?) {
            Err(lib_store::StoreError::NotFound { .. }) if args.if_exists => continue,
            vm => vm?,
        };
        let guard = locks.vm(&vm.id)?;
        if let Err(error) = lib_vm::delete(&mut store, &guard, &vm, args.force) {
            let failure = Failure::from(error);
            return Err(if failure.status() == u8::from(Exit::Busy) {
                failure.hint(format!(
                    "banger-vm stop {0}   (or: banger-vm delete --force {0})",
                    vm.name
                ))
            } else {
                failure
            });
        }
        drop(guard);
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, true))?;
    }
    Ok(())
}
