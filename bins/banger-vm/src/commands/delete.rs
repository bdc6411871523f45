//! `banger-vm delete`.

use lib_cli::{Failure, Session};
use lib_model::Exit;
use lib_store::StoreError;

use crate::cli::DeleteArgs;
use crate::target;

/// Removes the VMs and their disks, and prints their last records.
pub(crate) fn run(session: &mut Session, args: &DeleteArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    let selected = target::selected(&store, &args.vms)?;
    lib_cli::for_each(selected, |name| {
        let vm = match store.vm(name) {
            Err(StoreError::NotFound { .. }) if args.if_exists => return Ok(()),
            vm => vm?,
        };
        let guard = locks.vm(&vm.id)?;
        let vm = match store.vm_again(&guard, &vm) {
            Err(StoreError::NotFound { .. }) if args.if_exists => return Ok(()),
            vm => vm?,
        };
        if let Err(error) = lib_vm::delete(&mut store, &guard, &vm, args.force) {
            let failure = Failure::from(error);
            return Err(if failure.status() == u8::from(Exit::Busy) {
                let name = &vm.name;
                failure.hint(format!(
                    "banger-vm stop {name}   (or: banger-vm delete --force {name})"
                ))
            } else {
                failure
            });
        }
        drop(guard);
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, true))
    })
}
