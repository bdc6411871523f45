//! `banger-net nat`.

use lib_cli::{Failure, Session};
use lib_net::{PrivilegedOps, address_record};

use crate::cli::{NatArgs, Switch};

pub(crate) fn run(session: &mut Session, args: &NatArgs) -> Result<(), Failure> {
    let mut ops = super::open(session)?;
    super::for_each(session, &args.vms.vms, |session, vm| {
        let (changed, reservation) = ops.nat(vm, args.switch == Switch::On)?;
        session.output.emit(address_record(reservation, changed)?)
    })
}
