//! The bridge network: an address before the VM is made, an interface for each run, both given back when
//! it is deleted. All by way of the network's daemon; nothing here has rights.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use lib_model::{VmId, VmName};
use lib_net::{Client, Code, Endpoint, NetError, PrivilegedOps, Reservation, store_tag, vm_id};
use lib_store::{Context, VmRow};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::error::io_error;
use crate::{Network, VmError};

/// The interface of one run, which goes when the VMM ends.
pub(crate) struct Attachment {
    pub(crate) reservation: Reservation,
    tap: OwnedFd,
}

impl Attachment {
    /// The number that the VMM inherits.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.tap.as_raw_fd()
    }
}

/// Whether new VMs can be on the bridge: the daemon answers, and takes us.
pub fn bridge_answers(context: &Context) -> bool {
    Endpoint::of(context).answers()
}

fn open(context: &Context) -> Result<Client, NetError> {
    Endpoint::of(context).open()
}

/// Reserves an address, or finds the one that the VM has. `nat` is left as it is where it is `None`.
pub(crate) fn reserve(
    context: &Context,
    id: &VmId,
    name: &VmName,
    nat: Option<bool>,
) -> Result<Ipv4Addr, VmError> {
    let mut ops = open(context)?;
    let reservation = reserved(&mut ops, context, id, name)?;
    if let Some(nat) = nat
        && let Err(error) = ops.nat(vm_id(id), nat)
    {
        // Of what was just made; if that fails, `gc` finds it.
        let _ = ops.release(vm_id(id));
        return Err(error.into());
    }
    Ok(reservation.address)
}

fn reserved(
    ops: &mut Client,
    context: &Context,
    id: &VmId,
    name: &VmName,
) -> Result<Reservation, NetError> {
    let name = lib_net::VmName::try_from(name.as_str())?;
    let (_, reservation) = ops.reserve(vm_id(id), name, store_tag(context.data()))?;
    Ok(reservation)
}

/// Gives the address back. Without a daemon it stays reserved, until `banger-net gc`.
pub(crate) fn release(context: &Context, id: &VmId) {
    if let Ok(mut ops) = open(context) {
        // As above.
        let _ = ops.release(vm_id(id));
    }
}

/// The interface for a run of a VM that is not alive; the caller holds `vm[id]`.
pub(crate) fn attach(context: &Context, vm: &VmRow) -> Result<Option<Attachment>, VmError> {
    if vm.spec.network != Network::Bridge.as_str() {
        return Ok(None);
    }
    let mut ops = open(context)?;
    // A daemon that lost its journal, or a VM that was renamed.
    reserved(&mut ops, context, &vm.id, &vm.name)?;
    let id = vm_id(&vm.id);
    let attached = match ops.attach(id.clone()) {
        // The VM is dead, so it is one that is just going, or was made to stay.
        Err(error) if error.code() == Some(Code::Busy) => {
            ops.detach(id.clone())?;
            ops.attach(id)
        }
        attached => attached,
    };
    let (reservation, tap) = attached?;
    // It passes through the monitor to the VMM.
    fcntl(&tap, FcntlArg::F_SETFD(FdFlag::empty()))
        .map_err(|error| io_error("pass on", reservation.interface.as_str())(error.into()))?;
    Ok(Some(Attachment { reservation, tap }))
}
