//! `status`: how the network is.

use banger_proto::Reply;

use super::{Outcome, replied};
use crate::network::Network;

pub(super) async fn run(network: &mut Network) -> Outcome {
    network.look().await?;
    replied(false, Reply::Network(network.status().await?))
}
