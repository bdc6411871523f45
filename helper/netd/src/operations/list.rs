//! `list`: the caller's reservations.

use banger_proto::Reply;

use super::{Outcome, replied};
use crate::network::Network;
use crate::peer::Peer;

pub(super) async fn run(network: &mut Network, peer: &Peer) -> Outcome {
    network.look().await?;
    let kept = network.journal.kept().values();
    let visible = kept.filter(|kept| peer.owns(kept.uid));
    let mut list: Vec<_> = visible.map(|kept| network.reservation(kept)).collect();
    list.sort_by_key(|reservation| reservation.address);
    replied(false, Reply::Reservations(list))
}
