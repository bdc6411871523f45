//! `banger-vm list` and `show`.

use lib_cli::{Failure, Session};
use lib_model::VmState;
use lib_store::Store;

use crate::cli::{ListArgs, VmsArgs};
use crate::target;

/// Lists VMs with their state at this moment. Makes no store.
pub(crate) fn run(session: &mut Session, args: &ListArgs) -> Result<(), Failure> {
    let Some(store) = Store::open_existing(&session.context)? else {
        return Ok(());
    };
    for record in lib_vm::records(&session.context, &store.vms()?) {
        if !args.running || record.state != VmState::Stopped {
            session.output.emit(record)?;
        }
    }
    Ok(())
}

/// Shows everything about the VMs.
pub(crate) fn show(session: &mut Session, args: &VmsArgs) -> Result<(), Failure> {
    let mut store = session.store_to_read()?;
    target::for_each(&mut store, args, |_, vm| {
        session
            .output
            .show(lib_vm::record(&session.context, &vm, false))
    })
}
