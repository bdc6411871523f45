//! `release`: all that a VM has goes, its address last. Again is as good as once.

use banger_proto::{Code, Reply, VmId};

use super::{Outcome, detach, owned, replied, unmap};
use crate::jail::Jails;
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::peer::Peer;
use banger_proto::Refusal;

pub(super) async fn run(network: &mut Network, peer: &Peer, vm: &VmId) -> Outcome {
    let kept = match owned(network, peer, vm) {
        Err(Refusal {
            code: Code::NotFound,
            ..
        }) => return replied(false, Reply::Reservation(None)),
        kept => kept?,
    };
    let last = network.reservation(&kept);
    if network.offered.contains(&Feature::Jails) {
        let ended = Jails::end(vm).await;
        ended.map_err(failed(format!("end what runs in the jail of {vm}")))?;
    }
    detach::remove(network, &kept).await?;
    if network.offered.contains(&Feature::Disks) {
        unmap::remove(vm)?;
    }
    network
        .journal
        .drop(vm)
        .map_err(failed(format!("note the release of {vm}")))?;
    if let Err(refusal) = network.apply(Some(&kept), None).await {
        // It keeps its address until its rules can go: nobody else may get what they allow.
        let _ = network.journal.set(kept);
        return Err(refusal);
    }
    network.write_names_or_note();
    replied(true, Reply::Reservation(Some(last)))
}
