//! `gc`: what has no owner goes: interfaces without a reservation, and the caller's reservations for VMs
//! that are not in the store that it names.

use std::collections::HashSet;

use banger_proto::{Refusal, Reply, StoreTag, VmId};

use super::{Outcome, now_ms, release, replied, unmap};
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::peer::Peer;

pub(super) async fn run(
    network: &mut Network,
    peer: &Peer,
    store: &StoreTag,
    keep: &[VmId],
    min_age_s: u64,
) -> Outcome {
    let orphans = network.look().await?;
    let mut changed = !orphans.is_empty();
    for link in &orphans {
        let deleted = network.links.delete(link).await;
        deleted.map_err(failed(format!("remove {}", link.name)))?;
    }
    changed |= unmap_orphans(network)?;
    let keep: HashSet<&VmId> = keep.iter().collect();
    let oldest = now_ms().saturating_sub(min_age_s.saturating_mul(1000));
    let kept = network.journal.kept().values();
    let lost: Vec<_> = kept
        .filter(|kept| kept.uid == peer.uid && kept.store == *store)
        .filter(|kept| !keep.contains(&kept.vm) && !network.attached.contains(&kept.vm))
        .filter(|kept| kept.reserved_ms <= oldest)
        .map(|kept| network.reservation(kept))
        .collect();
    let mut first: Option<Refusal> = None;
    let mut given_back = Vec::new();
    for reservation in lost {
        match release::run(network, peer, &reservation.vm).await {
            Ok(_) => given_back.push(reservation),
            Err(refusal) => {
                first.get_or_insert(refusal);
            }
        }
    }
    if let Some(refusal) = first {
        return Err(refusal);
    }
    changed |= !given_back.is_empty();
    replied(changed, Reply::Reservations(given_back))
}

/// Block devices for VMs that nobody reserved. Returns whether there were some.
fn unmap_orphans(network: &Network) -> Result<bool, Refusal> {
    if !network.offered.contains(&Feature::Disks) {
        return Ok(false);
    }
    let mut changed = false;
    for vm in unmap::mapped().map_err(failed("look at block devices"))? {
        if network.journal.get(&vm).is_none() {
            changed |= unmap::remove(&vm)?;
        }
    }
    Ok(changed)
}
