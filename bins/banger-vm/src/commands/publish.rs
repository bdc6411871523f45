//! `banger-vm publish` and `unpublish`.

use lib_cli::{Failure, Session};
use lib_model::{Publish, PublishedRecord, SCHEMA};
use lib_store::VmRow;
use lib_vm::Published;

use crate::cli::PublishArgs;

/// The record of a published port.
pub(crate) fn record(vm: &VmRow, port: Publish, active: bool, changed: bool) -> PublishedRecord {
    PublishedRecord {
        schema: SCHEMA,
        id: vm.id.clone(),
        name: vm.name.clone(),
        protocol: Publish::PROTOCOL.to_owned(),
        address: port.address,
        host_port: port.host_port,
        guest_port: port.guest_port,
        active,
        changed,
    }
}

/// Publishes the ports and prints a record of each.
pub(crate) fn publish(session: &mut Session, args: &PublishArgs) -> Result<(), Failure> {
    each(session, args, |store, guard, vm, port| {
        lib_vm::publish(store, guard, vm, port)
    })
}

/// Unpublishes the ports and prints the last record of each.
pub(crate) fn unpublish(session: &mut Session, args: &PublishArgs) -> Result<(), Failure> {
    each(session, args, |store, guard, vm, port| {
        lib_vm::unpublish(store, guard, vm, port)
    })
}

fn each(
    session: &mut Session,
    args: &PublishArgs,
    act: impl Fn(
        &mut lib_store::Store,
        &mut lib_store::VmGuard<'_>,
        &VmRow,
        Publish,
    ) -> Result<Published, lib_vm::VmError>,
) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    let vm = store.vm(&args.vm)?;
    let mut guard = locks.vm(&vm.id)?;
    for port in &args.ports {
        let vm = store.vm_again(&guard, &vm)?;
        let done = act(&mut store, &mut guard, &vm, *port)?;
        session
            .output
            .emit(record(&vm, done.port, done.active, done.changed))?;
    }
    Ok(())
}
