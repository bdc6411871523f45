//! `banger-net doctor`.

use lib_cli::{Failure, Session};
use lib_model::Exit;
use lib_net::{Endpoint, ZONE};

use super::dns::name_server;

/// Prints a record for each thing that was tried; fails when one of them did.
pub(crate) fn run(session: &mut Session, fix: bool) -> Result<u8, Failure> {
    let endpoint = Endpoint::of(&session.context);
    let checks = lib_net::doctor(&endpoint, fix, &|reservation| {
        let name = format!("{}.{ZONE}", reservation.name);
        lib_dns::doctor(name_server(), &name, reservation.address)
    });
    let well = checks.iter().all(|check| check.ok);
    for check in checks {
        session.output.emit(check)?;
    }
    Ok(if well { Exit::Done } else { Exit::Failed }.into())
}
