//! `up`: the bridge and the rules are there.

use banger_proto::Reply;

use super::{Outcome, replied};
use crate::network::Network;

pub(super) async fn run(network: &mut Network) -> Outcome {
    // Somebody may have flushed the rules.
    network.distrust();
    let (_, changed) = network.ensure().await?;
    replied(changed, Reply::Network(network.status_when(true)?))
}
