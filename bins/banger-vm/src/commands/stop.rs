//! `banger-vm stop`, `restart` and `kill`.

use std::time::Duration;

use lib_cli::{Failure, Session};
use lib_config::{Config, Environment};
use lib_vm::Interrupt;

use crate::cli::{StopArgs, VmsArgs};
use crate::{sync, target};

/// How long a guest has to shut down when nobody says otherwise.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(20);

/// Shuts the VMs down; one that does not run is left as it is.
pub(crate) fn stop(session: &mut Session, args: &StopArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    let grace = Duration::from_secs(args.grace);
    target::for_each(&mut store, &args.vms, |store, vm| {
        let guard = locks.vm(&vm.id)?;
        let vm = store.vm_again(&guard, &vm)?;
        let lived = lib_vm::life(&session.context, &vm) != lib_vm::Life::Dead;
        lib_vm::stop(&session.context, &guard, &vm, grace, &Interrupt::never())?;
        drop(guard);
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, lived))
    })
}

/// Shuts the VMs down and boots them again.
pub(crate) fn restart(session: &mut Session, args: &StopArgs) -> Result<(), Failure> {
    let files = sync::files(session, &Config::load(&Environment::process())?)?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    let grace = Duration::from_secs(args.grace);
    target::for_each(&mut store, &args.vms, |store, vm| {
        let guard = locks.vm(&vm.id)?;
        let vm = store.vm_again(&guard, &vm)?;
        lib_vm::stop(&session.context, &guard, &vm, grace, &Interrupt::never())?;
        let interrupt =
            Interrupt::install().map_err(|error| Failure::io("take over the signals", error))?;
        let identity = sync::ask_identity();
        let patience = Duration::from_secs(120);
        lib_vm::start(store, &guard, &vm, patience, &interrupt, &|text| {
            session.note(text)
        })?;
        drop(guard);
        sync::deliver(session, &vm, &files, Some(identity));
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, true))
    })
}

/// Ends the VMs at once.
pub(crate) fn kill(session: &mut Session, args: &VmsArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    target::for_each(&mut store, args, |store, vm| {
        // A start that hangs holds the lock of the VM; ending its VMM ends the start too.
        let mut changed = lib_vm::kill_now(store.context(), &vm);
        let guard = locks.vm(&vm.id)?;
        changed |= lib_vm::kill(store.context(), &guard, &vm)?;
        drop(guard);
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, changed))
    })
}
