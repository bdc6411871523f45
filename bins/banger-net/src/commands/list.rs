//! `banger-net list`.

use lib_cli::{Failure, Session};
use lib_net::{PrivilegedOps, address_record};

pub(crate) fn run(session: &mut Session) -> Result<(), Failure> {
    for reservation in super::open(session)?.list()? {
        session.output.emit(address_record(reservation, false)?)?;
    }
    Ok(())
}
