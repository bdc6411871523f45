//! `admit`: another program's firewall lets through what the bridge forwards, until that is taken back or the network
//! is down.

use banger_proto::{Code, Refusal, Reply};

use super::{Outcome, replied};
use crate::network::Network;
use crate::peer::Peer;

pub(super) async fn run(network: &mut Network, peer: &Peer, enabled: bool) -> Outcome {
    // It is the host's firewall, and so for all users.
    if !peer.is_root() {
        let refusal = Refusal::new(
            Code::Denied,
            "only root may change another program's firewall",
        );
        return Err(refusal.hint("sudo banger-net doctor --fix"));
    }
    let changed = match enabled {
        true => network.admit().await?,
        false => network.admit_no_more().await?,
    };
    let up = network.is_up().await?;
    replied(changed, Reply::Network(network.status_when(up)?))
}
