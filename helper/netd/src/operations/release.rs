//! `release`: all that a VM has goes, its address last. Again is as good as once.

use banger_proto::{Code, Refusal, Reply, VmId};

use super::{Outcome, detach, owned, replied, unmap};
use crate::jail::Jails;
use crate::journal::Kept;
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::peer::Peer;
use crate::serve::Server;

pub(super) async fn run(server: &Server, peer: &Peer, vm: &VmId) -> Outcome {
    give_back(server, peer, vm, |_| true).await
}

/// The same for a VM of which something is true, which is looked at before each step that cannot be taken back.
pub(super) async fn give_back(
    server: &Server,
    peer: &Peer,
    vm: &VmId,
    wanted: impl Fn(&Network) -> bool,
) -> Outcome {
    let jails = {
        let network = server.network.lock().await;
        match owned_or_none(&network, peer, vm)? {
            Some(_) if wanted(&network) => {}
            _ => return replied(false, Reply::Reservation(None)),
        }
        network.jails.clone()
    };
    // What runs may take long to start and to end. The turn lasts to the end, so that it does not start again.
    let turn = jails.turns.take(vm).await;
    if server.options.offered().contains(&Feature::Jails) {
        let ended = Jails::end(&turn, vm).await;
        ended.map_err(failed(format!("end what runs in the jail of {vm}")))?;
    }
    let mut network = server.network.lock().await;
    let kept = match owned_or_none(&network, peer, vm)? {
        Some(kept) if wanted(&network) => kept,
        _ => return replied(false, Reply::Reservation(None)),
    };
    let last = network.reservation(&kept);
    detach::remove(&mut network, &kept).await?;
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

fn owned_or_none(network: &Network, peer: &Peer, vm: &VmId) -> Result<Option<Kept>, Refusal> {
    match owned(network, peer, vm) {
        Err(refusal) if refusal.code == Code::NotFound => Ok(None),
        kept => kept.map(Some),
    }
}
