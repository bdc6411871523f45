//! The agent of a VM, and what its failures mean.

use banger_wire::monitor::file;
use lib_cli::{Failure, Session};
use lib_guest::{CallErrorKind, Error, Guest};
use lib_model::Exit;
use lib_store::VmRow;
use lib_vm::{Life, VmError};
use lib_ws::WsError;

/// The agent.
pub(crate) fn of(session: &Session, vm: &VmRow) -> Guest {
    Guest::new(lib_vm::runtime(&session.context, vm).join(file::AGENT_SOCKET))
}

/// Why `verb` did not succeed.
pub(crate) fn failure(session: &Session, vm: &VmRow, verb: &str, error: Error) -> Failure {
    let name = &vm.name;
    match error {
        Error::Connect { .. } if lib_vm::life(&session.context, vm) == Life::Dead => {
            let vm = name.to_string();
            VmError::NotRunning { vm }.into()
        }
        Error::Call(call) if call.kind == CallErrorKind::Unsupported => Failure::new(
            Exit::Failed,
            format!("the agent in {name} is older than this `{verb}`, and does not know what it asks for"),
        )
        .hint(format!("banger-vm restart {name}")),
        // It says all there is to say.
        Error::Call(call) => Failure::new(Exit::Failed, call.to_string()),
        error => WsError::from(error).into(),
    }
}
