//! `detach`: a VM's interface goes, whoever has it open. Its address stays reserved.

use banger_proto::{Reply, VmId};

use super::{Outcome, owned, replied};
use crate::journal::Kept;
use crate::links::Owner;
use crate::network::{Network, failed};
use crate::peer::Peer;
use banger_proto::Refusal;

pub(super) async fn run(network: &mut Network, peer: &Peer, vm: &VmId) -> Outcome {
    let kept = owned(network, peer, vm)?;
    let changed = remove(network, &kept).await?;
    network.write_names_or_note();
    replied(
        changed,
        Reply::Reservation(Some(network.reservation(&kept))),
    )
}

/// Whether there was one.
pub(super) async fn remove(network: &mut Network, kept: &Kept) -> Result<bool, Refusal> {
    let interface = kept.interface();
    let link = network.links.find(&interface).await;
    let link = link.map_err(failed(format!("look at {interface}")))?;
    let Some(link) = link.filter(|link| link.owner == Owner::Vm(kept.vm.clone())) else {
        network.attached.remove(&kept.vm);
        return Ok(false);
    };
    let deleted = network.links.delete(&link).await;
    deleted.map_err(failed(format!("remove {interface}")))?;
    network.attached.remove(&kept.vm);
    Ok(true)
}
