//! `banger-net gc`.

use lib_cli::{Failure, Session};
use lib_net::{PrivilegedOps, address_record, store_tag, vm_id};

use crate::cli::GcArgs;

/// Prints what was given back.
pub(crate) fn run(session: &mut Session, args: &GcArgs) -> Result<(), Failure> {
    let mut ops = super::open(session)?;
    let store = session.store_to_read()?;
    let keep = store.vms()?.iter().map(|vm| vm_id(&vm.id)).collect();
    let (_, given_back) = ops.gc(store_tag(session.context.data()), keep, args.min_age)?;
    for reservation in given_back {
        session.output.emit(address_record(reservation, true)?)?;
    }
    Ok(())
}
