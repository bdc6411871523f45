//! `banger-net status`.

use lib_cli::{Failure, Session};
use lib_net::{PrivilegedOps, network_record};

pub(crate) fn run(session: &mut Session) -> Result<(), Failure> {
    let status = super::open(session)?.status()?;
    session.output.emit(network_record(status, false))
}
