//! `banger-vm start`.

use std::time::Duration;

use lib_cli::{Failure, Session};
use lib_config::{Config, Environment};
use lib_vm::Interrupt;

use crate::cli::StartArgs;
use crate::{sync, target};

/// Boots the VMs; one that runs already is only waited for.
pub(crate) fn run(session: &mut Session, args: &StartArgs) -> Result<(), Failure> {
    let files = sync::files(session, &Config::load(&Environment::process())?)?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    let patience = Duration::from_secs(args.boot_timeout);
    target::for_each(&mut store, &args.vms, |store, vm| {
        let guard = locks.vm(&vm.id)?;
        let vm = store.vm_again(&guard, &vm)?;
        // Only now: while we wait for records or the lock, Ctrl-C just ends us.
        let interrupt =
            Interrupt::install().map_err(|error| Failure::io("take over the signals", error))?;
        let identity = sync::ask_identity();
        let started = lib_vm::start(store, &guard, &vm, patience, &interrupt, &|text| {
            session.note(text)
        })?;
        drop(guard);
        if started.changed {
            sync::deliver(session, &vm, &files, Some(identity));
        }
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, started.changed))
    })
}
