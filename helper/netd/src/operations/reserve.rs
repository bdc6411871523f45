//! `reserve`: an address for a VM, before the VM is made. In the kernel nothing changes, but for rules of a VM that gets
//! another address.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use banger_proto::{Code, InterfaceName, Refusal, Reply, StoreTag, VmId, VmName};

use super::{Outcome, now_ms, replied};
use crate::journal::Kept;
use crate::network::{Network, failed};
use crate::peer::Peer;

pub(super) async fn run(
    network: &mut Network,
    peer: &Peer,
    vm: &VmId,
    name: &VmName,
    store: &StoreTag,
) -> Outcome {
    let before = network.journal.get(vm).cloned();
    if before.as_ref().is_some_and(|kept| !peer.owns(kept.uid)) {
        let message = format!("the id {vm} is taken by another user's VM");
        return Err(Refusal::new(Code::Denied, message).hint("banger-vm create   (with a new id)"));
    }
    let after = match &before {
        Some(kept) => Kept {
            name: name.clone(),
            store: store.clone(),
            address: address_of(network, kept)?,
            ..kept.clone()
        },
        None => fresh(network, peer, vm, name, store)?,
    };
    let changed = before.as_ref() != Some(&after);
    if changed {
        let kept = network.journal.set(after.clone());
        kept.map_err(failed(format!("note the reservation of {vm}")))?;
        let moved = before.as_ref().is_some_and(|b| b.address != after.address);
        let done = match moved {
            true => network.apply(before.as_ref(), Some(&after)).await,
            false => Ok(()),
        };
        if let Err(refusal) = done.and_then(|()| network.write_names()) {
            // The cause is told; a journal that fails as well is found by `gc`.
            let _ = match before {
                Some(before) => network.journal.set(before),
                None => network.journal.drop(vm),
            };
            return Err(refusal);
        }
        network.last = Some(after.address);
    }
    replied(
        changed,
        Reply::Reservation(Some(network.reservation(&after))),
    )
}

/// The one that it has, unless the administrator chose another pool meanwhile.
fn address_of(network: &Network, kept: &Kept) -> Result<Ipv4Addr, Refusal> {
    if network.pool.contains(kept.address) || network.attached.contains(&kept.vm) {
        return Ok(kept.address);
    }
    free(network)
}

fn free(network: &Network) -> Result<Ipv4Addr, Refusal> {
    let kept = network.journal.kept().values();
    let taken: HashSet<_> = kept.map(|kept| kept.address).collect();
    network.pool.free(&taken, network.last).ok_or_else(|| {
        let pool = network.pool;
        let message = format!(
            "all {} addresses of the pool {pool} are reserved",
            pool.size()
        );
        Refusal::new(Code::Exhausted, message)
            .hint("banger-net gc   (or banger-netd --pool with more)")
    })
}

fn fresh(
    network: &Network,
    peer: &Peer,
    vm: &VmId,
    name: &VmName,
    store: &StoreTag,
) -> Result<Kept, Refusal> {
    let kept = network.journal.kept();
    let limit = network.limits.reservations;
    if !peer.is_root() && kept.values().filter(|kept| kept.uid == peer.uid).count() >= limit {
        let message = format!("you have {limit} reservations, which is the limit for one user");
        return Err(Refusal::new(Code::Exhausted, message).hint("banger-net gc   (or delete VMs)"));
    }
    let interface = InterfaceName::of_vm(vm);
    if network.journal.with_interface(interface.as_str()).is_some() {
        let message = format!("another VM has the interface name {interface}");
        return Err(Refusal::new(Code::Busy, message).hint("banger-vm create   (with a new id)"));
    }
    Ok(Kept {
        vm: vm.clone(),
        name: name.clone(),
        store: store.clone(),
        uid: peer.uid,
        address: free(network)?,
        nat: false,
        group: None,
        reserved_ms: now_ms(),
    })
}
