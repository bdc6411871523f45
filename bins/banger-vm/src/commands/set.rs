//! `banger-vm set`.

use lib_cli::{Failure, Session};
use lib_vm::Change;

use crate::cli::SetArgs;
use crate::target;

/// Changes the VMs, or says what a change would come to, and prints their records.
pub(crate) fn run(session: &mut Session, args: &SetArgs) -> Result<(), Failure> {
    let change = Change {
        name: args.name.clone(),
        cpus: args.cpus,
        memory: args.memory,
        disk: args.disk,
        network: args.network.as_deref().and_then(|mode| mode.parse().ok()),
        accel: args.accel.as_deref().and_then(|kind| kind.parse().ok()),
        idle_stop: args.idle_stop,
    };
    if change == Change::default() {
        return Err(Failure::usage("no change was given").hint("banger-vm set --help"));
    }
    if args.name.is_some() && args.vms.vms.len() > 1 {
        return Err(Failure::usage("--name fits one VM, but more are named"));
    }
    let mut store = session.store()?;
    let mut locks = session.locks();
    let dry_run = args.dry_run;
    target::for_each(&mut store, &args.vms.vms, |store, vm| {
        let mut guard = locks.vm(&vm.id)?;
        let vm = store.vm_again(&guard, &vm)?;
        let changed = lib_vm::set(store, &mut guard, &vm, &change, dry_run)?;
        drop(guard);
        session.note(&described(&vm.name, &changed, dry_run));
        let differs = !changed.fields.is_empty();
        let record = lib_vm::record(&session.context, &changed.vm, differs && !dry_run);
        session.output.emit(record)
    })
}

fn described(name: &lib_model::VmName, changed: &lib_vm::Changed, dry_run: bool) -> String {
    if changed.fields.is_empty() {
        return format!("{name} is that way already");
    }
    let (would, fields) = (
        if dry_run { "would change" } else { "changed" },
        &changed.fields,
    );
    let restart = match (changed.needs_restart, dry_run) {
        (false, _) => String::new(),
        (true, true) => "; it would need a restart".into(),
        (true, false) => format!(
            "; from its next start on: banger-vm restart {}",
            changed.vm.name
        ),
    };
    format!("{name}: {would} {}{restart}", fields.join(", "))
}
