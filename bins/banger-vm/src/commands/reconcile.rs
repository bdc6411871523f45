//! `banger-vm reconcile`.

use lib_cli::{Failure, Session};

use crate::cli::ReconcileArgs;

/// Mends what crashes left, says what, and prints the records of the VMs that it was about.
pub(crate) fn run(session: &mut Session, args: &ReconcileArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    let repairs = lib_vm::reconcile(&mut store, &mut locks, args.dry_run)?;
    if repairs.is_empty() {
        session.note("all is as it should be");
    }
    for repair in repairs {
        let would = if args.dry_run { "would be " } else { "" };
        session.note(&format!("{}: {would}{}", repair.vm.name, repair.done));
        let record = lib_vm::record(&session.context, &repair.vm, !args.dry_run);
        session.output.emit(record)?;
    }
    Ok(())
}
