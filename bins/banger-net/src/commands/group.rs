//! `banger-net group`.

use lib_cli::{Failure, Session};
use lib_net::{PrivilegedOps, address_record};

use crate::cli::GroupCommand;

pub(crate) fn run(session: &mut Session, command: &GroupCommand) -> Result<(), Failure> {
    let (group, vms) = match command {
        GroupCommand::Set(args) => (Some(&args.group), &args.vms),
        GroupCommand::Unset(vms) => (None, vms),
    };
    let mut ops = super::open(session)?;
    super::for_each(session, &vms.vms, |session, vm| {
        let (changed, reservation) = ops.group(vm, group.cloned())?;
        session.output.emit(address_record(reservation, changed)?)
    })
}
