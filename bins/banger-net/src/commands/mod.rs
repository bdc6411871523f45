//! One file for each verb.

pub(crate) mod dns;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod gc;
pub(crate) mod group;
pub(crate) mod list;
pub(crate) mod nat;
pub(crate) mod publish;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod up;

use lib_cli::{Failure, Kind, Session, selectors};
use lib_net::{Client, Endpoint, VmId};

/// The daemon, or a child for root.
fn open(session: &Session) -> Result<Client, Failure> {
    Ok(Endpoint::of(&session.context).open()?)
}

/// Acts on each of the VMs that are named, or on standard input.
fn for_each(
    session: &mut Session,
    names: &[String],
    mut act: impl FnMut(&mut Session, VmId) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let store = session.store_to_read()?;
    lib_cli::for_each(selectors(names, Kind::Vm)?, |name| {
        let vm = store.vm(name)?;
        act(session, lib_net::vm_id(&vm.id))
    })
}
