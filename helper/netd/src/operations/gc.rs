//! `gc`: what has no owner goes: interfaces, block devices and jails without a reservation, and the caller's reservations for VMs
//! that are not in the store that it names.

use std::collections::HashSet;

use banger_proto::{Refusal, Reply, StoreTag, VmId};

use super::{Outcome, now_ms, release, replied, status, unmap};
use crate::jail::Jails;
use crate::network::{Network, failed};
use crate::peer::Peer;
use crate::serve::Server;

pub(super) async fn run(
    server: &Server,
    peer: &Peer,
    store: &StoreTag,
    keep: &[VmId],
    min_age_s: u64,
) -> Outcome {
    let mut network = server.network.lock().await;
    let orphans = network.look().await?;
    let mut changed = !orphans.is_empty();
    for link in &orphans {
        let deleted = network.links.delete(link).await;
        deleted.map_err(failed(format!("remove {}", link.name)))?;
    }
    for vm in status::stray_devices(&network)? {
        changed |= unmap::remove(&vm)?;
    }
    let stray = status::stray_jails(&network)?;
    let keep: HashSet<&VmId> = keep.iter().collect();
    let oldest = now_ms().saturating_sub(min_age_s.saturating_mul(1000));
    let kept = network.journal.kept().values();
    let lost: Vec<_> = kept
        .filter(|kept| kept.uid == peer.uid && kept.store == *store)
        .filter(|kept| !keep.contains(&kept.vm) && !network.attached.contains(&kept.vm))
        .filter(|kept| kept.reserved_ms <= oldest)
        .map(|kept| network.reservation(kept))
        .collect();
    let jails = network.jails.clone();
    drop(network);
    let mut first: Option<Refusal> = None;
    for vm in &stray {
        match end_stray(server, &jails, vm).await {
            Ok(ended) => changed |= ended,
            Err(refusal) => {
                first.get_or_insert(refusal);
            }
        }
    }
    let mut given_back = Vec::new();
    for reservation in lost {
        let vm = &reservation.vm;
        let unused = |network: &Network| !network.attached.contains(vm);
        match release::give_back(server, peer, vm, unused).await {
            Ok((response, _)) if response.changed => given_back.push(reservation),
            Ok(_) => {}
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

/// Unless somebody reserved it meanwhile. Returns whether something ran.
async fn end_stray(server: &Server, jails: &Jails, vm: &VmId) -> Result<bool, Refusal> {
    let turn = jails.turns.take(vm).await;
    if server.network.lock().await.journal.get(vm).is_some() {
        return Ok(false);
    }
    let ended = Jails::end(&turn, vm).await;
    ended.map_err(failed(format!("end what runs in the jail of {vm}")))
}
