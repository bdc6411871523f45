//! `unmap`: a VM's block devices go; those that somebody has open, when they are closed.

use std::io;

use banger_proto::{Refusal, Reply, VmId};

use super::{Outcome, owned, replied};
use crate::loops;
use crate::mapper::Mapper;
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::peer::Peer;

pub(super) async fn run(network: &mut Network, peer: &Peer, vm: &VmId) -> Outcome {
    let kept = owned(network, peer, vm)?;
    network.refuse_unless_offered(Feature::Disks)?;
    let changed = remove(vm)?;
    replied(
        changed,
        Reply::Reservation(Some(network.reservation(&kept))),
    )
}

/// Whether there was one.
pub(super) fn remove(vm: &VmId) -> Result<bool, Refusal> {
    let removed = || -> io::Result<bool> {
        let mut changed = match Mapper::open() {
            Ok(mapper) => mapper.remove(vm)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        for device in loops::ours()? {
            if device.vm == *vm {
                device.clear()?;
                changed = true;
            }
        }
        Ok(changed)
    };
    removed().map_err(failed(format!("remove the block devices of {vm}")))
}

/// VMs that have block devices, each as often as it has one.
pub(super) fn mapped() -> io::Result<Vec<VmId>> {
    let mut vms = match Mapper::open() {
        Ok(mapper) => mapper.ours()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    vms.extend(loops::ours()?.into_iter().map(|device| device.vm));
    vms.sort();
    Ok(vms)
}
