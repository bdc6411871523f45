//! `banger-vm wait`.

use banger_wire::monitor::ControlRequest;
use lib_cli::{Failure, Session};
use lib_vm::{Control, Interrupt, Life, VmError};

use crate::cli::VmsArgs;
use crate::target;

/// Waits until the VMs have ended, and prints their records.
pub(crate) fn run(session: &mut Session, args: &VmsArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    target::for_each(&mut store, args, |_, vm| {
        if let Ok(mut control) = Control::connect(&session.context, &vm) {
            match control.ask(&ControlRequest::WaitExit, None, &Interrupt::never()) {
                Err(VmError::Monitor { .. })
                    if lib_vm::life(&session.context, &vm) == Life::Dead => {}
                other => drop(other?),
            }
        }
        session
            .output
            .emit(lib_vm::record(&session.context, &vm, false))
    })
}
