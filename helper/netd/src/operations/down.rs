//! `down`: the bridge and the rules are gone; reservations stay. Only who made the bridge may ask, or root: others
//! may be about to start a VM, and it is their firewall as well.

use banger_proto::{Code, Refusal, Reply};

use super::{Outcome, replied};
use crate::network::Network;
use crate::peer::Peer;

pub(super) async fn run(network: &mut Network, peer: &Peer) -> Outcome {
    let mine = peer.is_root() || network.journal.maker() == Some(peer.uid);
    if !mine && network.bridge_link().await?.is_some() {
        let message = format!("{} was made for another user", network.bridge);
        return Err(Refusal::new(Code::Denied, message).hint("sudo banger-net down"));
    }
    network.look().await?;
    let attached = network.attached.len();
    if attached > 0 {
        let message = format!("{attached} VMs are attached to {}", network.bridge);
        let refusal = Refusal::new(Code::Busy, message);
        return Err(refusal.hint("banger-net list   (and banger-vm stop those that run)"));
    }
    let changed = match network.take_down().await {
        Ok(changed) => changed,
        Err(refusal) => {
            // Half a network would be worse than either; the cause is told.
            network.distrust();
            let _ = network.ensure(None).await;
            return Err(refusal);
        }
    };
    replied(changed, Reply::Network(network.status_when(false)?))
}
