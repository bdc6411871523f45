//! `banger-vm prune`.

use lib_cli::{Failure, Session};

/// Removes VMs of `run` commands that were killed, and prints their last records.
pub(crate) fn run(session: &mut Session) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    for vm in lib_vm::sweep(&mut store, &mut locks)? {
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, true))?;
    }
    Ok(())
}
