//! `banger-net down`.

use lib_cli::{Failure, Session};
use lib_net::{PrivilegedOps, network_record};

pub(crate) fn run(session: &mut Session) -> Result<(), Failure> {
    let (changed, status) = super::open(session)?.down()?;
    session.output.emit(network_record(status, changed))
}
