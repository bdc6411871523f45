//! `banger-net doctor`.

use lib_cli::{Failure, Session};
use lib_model::Exit;
use lib_net::Endpoint;

/// Prints a record for each thing that was tried; fails when one of them did.
pub(crate) fn run(session: &mut Session) -> Result<u8, Failure> {
    let checks = lib_net::doctor(&Endpoint::of(&session.context));
    let well = checks.iter().all(|check| check.ok);
    for check in checks {
        session.output.emit(check)?;
    }
    Ok(if well { Exit::Done } else { Exit::Failed }.into())
}
