//! `up`: the bridge and the rules are there.

use banger_proto::Reply;

use super::{Outcome, replied};
use crate::network::Network;
use crate::peer::Peer;

pub(super) async fn run(network: &mut Network, peer: &Peer) -> Outcome {
    // Somebody may have flushed the rules.
    network.distrust();
    let (_, changed) = network.ensure(Some(peer.uid)).await?;
    replied(changed, Reply::Network(network.status_when(true)?))
}
