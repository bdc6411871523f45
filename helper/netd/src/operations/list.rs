//! `list`: the caller's reservations, and what else there is for them.

use std::collections::{HashMap, HashSet};

use banger_proto::{Reply, VmId};

use super::{Outcome, replied, unmap};
use crate::jail::Jails;
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::peer::Peer;

pub(super) async fn run(network: &mut Network, peer: &Peer) -> Outcome {
    network.look().await?;
    let jailed: HashSet<VmId> = match network.offered.contains(&Feature::Jails) {
        true => Jails::running().map_err(failed("look at jails"))?,
        false => Vec::new(),
    }
    .into_iter()
    .collect();
    let mut devices: HashMap<VmId, u32> = HashMap::new();
    if network.offered.contains(&Feature::Disks) {
        for vm in unmap::mapped().map_err(failed("look at block devices"))? {
            *devices.entry(vm).or_default() += 1;
        }
    }
    let kept = network.journal.kept().values();
    let visible = kept.filter(|kept| peer.owns(kept.uid));
    let mut list: Vec<_> = visible.map(|kept| network.reservation(kept)).collect();
    for reservation in &mut list {
        reservation.jailed = jailed.contains(&reservation.vm);
        reservation.devices = devices.get(&reservation.vm).copied().unwrap_or(0);
    }
    list.sort_by_key(|reservation| reservation.address);
    replied(false, Reply::Reservations(list))
}
