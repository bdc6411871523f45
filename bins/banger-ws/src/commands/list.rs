//! `banger-ws list`.

use lib_cli::{Failure, Session};

use crate::cli::ListArgs;

pub(crate) fn run(session: &mut Session, args: &ListArgs) -> Result<(), Failure> {
    let store = session.store_to_read()?;
    let workspaces = match &args.vm {
        Some(vm) => store.workspaces_of(&store.vm(vm)?.id)?,
        None => store.workspaces()?,
    };
    for workspace in workspaces {
        let vm = store.vm(workspace.vm.as_str())?;
        session.output.emit(workspace.record(&vm))?;
    }
    Ok(())
}
