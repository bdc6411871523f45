//! The agent of a VM, and what its failures mean for commands other than `exec`.

use banger_wire::monitor::file;
use lib_cli::{Failure, Session};
use lib_guest::{CallErrorKind, Error, Guest};
use lib_model::Exit;
use lib_store::VmRow;
use lib_vm::{Life, VmError};

/// The agent.
pub(crate) fn of(session: &Session, vm: &VmRow) -> Guest {
    Guest::new(lib_vm::runtime(&session.context, vm).join(file::AGENT_SOCKET))
}

/// Why `verb` did not succeed.
pub(crate) fn failure(session: &Session, vm: &VmRow, verb: &str, error: Error) -> Failure {
    let name = &vm.name;
    if matches!(error, Error::Connect { .. }) && lib_vm::life(&session.context, vm) == Life::Dead {
        return VmError::NotRunning {
            vm: name.to_string(),
        }
        .into();
    }
    if let Error::Call(call) = &error
        && call.kind == CallErrorKind::Unsupported
    {
        let ours = env!("CARGO_PKG_VERSION");
        let theirs = of(session, vm).info();
        let theirs = theirs.map_or_else(|_| "unknown".into(), |info| info.version);
        return Failure::new(
            Exit::Failed,
            format!(
                "the agent in {name} is of version {theirs} and does not know what `{verb}` of version {ours} asks for"
            ),
        )
        .hint(format!("banger-vm restart {name}"));
    }
    let exit = match error {
        Error::Interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    };
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(&format!(": {source}"));
    }
    let failure = Failure::new(exit, text);
    match error {
        Error::ConnectionLost => failure.hint(format!("banger-vm logs {name}")),
        Error::NoAnswer(_) => failure.hint(format!(
            "banger-vm logs {name}   (or: banger-vm kill {name})"
        )),
        _ => failure,
    }
}
