//! `banger-ws status`.

use lib_cli::{Failure, Kind, Session, selectors, stdin_is_data};
use lib_ws::Limits;

use super::Rig;
use crate::cli::WorkspacesArgs;

pub(crate) fn run(session: &mut Session, args: &WorkspacesArgs) -> Result<(), Failure> {
    let mut rig = Rig::new(session)?;
    let mut ids = args.workspaces.clone();
    if ids.is_empty() && !stdin_is_data() {
        ids.push(super::workspace(&rig.store, None)?.id.to_string());
    }
    lib_cli::for_each(selectors(&ids, Kind::Workspace)?, |name| {
        let row = rig.store.workspace(name)?;
        let vm = rig.store.vm(row.vm.as_str())?;
        let runs = lib_vm::life(&session.context, &vm) != lib_vm::Life::Dead;
        let note = |text: &str| session.note(text);
        let review = match runs && row.prepared_ms.is_some() {
            true => Some(lib_ws::look(
                &mut rig.env(session, &note)?,
                &row,
                Limits::default(),
            )?),
            // What a VM that does not run has cannot be looked at.
            false => None,
        };
        session
            .output
            .emit(lib_ws::status(&vm, &row, review.as_ref())?)
    })
}
