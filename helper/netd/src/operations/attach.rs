//! `attach`: a VM's interface. It is the caller's descriptor that keeps it, so whatever dies, it goes.

use std::os::fd::OwnedFd;

use banger_proto::{Code, Refusal, Reply, Response, VmId};

use super::{Outcome, owned};
use crate::journal::Kept;
use crate::links::Owner;
use crate::network::{Network, failed};
use crate::peer::Peer;

pub(super) async fn run(network: &mut Network, peer: &Peer, vm: &VmId) -> Outcome {
    let kept = owned(network, peer, vm)?;
    network.refuse_outside(&kept)?;
    let interface = kept.interface();
    let there = network.links.find(&interface).await;
    match there.map_err(failed(format!("look at {interface}")))? {
        None => {}
        Some(link) if link.owner == Owner::Vm(vm.clone()) => {
            let refusal = Refusal::new(Code::Busy, format!("the VM {vm} is attached already"));
            return Err(refusal.hint(format!("banger-vm stop {}", kept.name)));
        }
        Some(_) => {
            let message =
                format!("there is an interface {interface} that banger-netd did not make");
            let hint = format!("ip link show {interface}");
            return Err(Refusal::new(Code::NotOurs, message).hint(hint));
        }
    }
    let (bridge, made) = network.ensure(Some(peer.uid)).await?;
    let tap = match make(network, &kept, bridge.index).await {
        Ok(tap) => tap,
        Err(refusal) => {
            // The cause is told; what fails here again is found by `up`, `down` or `gc`.
            let _ = match made {
                true => network.take_down().await.map(drop),
                false => network.apply(Some(&kept), None).await,
            };
            return Err(refusal);
        }
    };
    let response = Response {
        changed: true,
        reply: Reply::Reservation(Some(network.reservation(&kept))),
    };
    Ok((response, Some(tap)))
}

async fn make(network: &mut Network, kept: &Kept, bridge: u32) -> Result<OwnedFd, Refusal> {
    // The rules first: there is no moment in which a guest could speak as another one.
    network.apply(None, Some(kept)).await?;
    let interface = kept.interface();
    let tap = network
        .links
        .add_tap(&interface, &kept.vm, kept.uid, bridge);
    let tap = tap
        .await
        .map_err(failed(format!("make the interface {interface}")))?;
    network.attached.insert(kept.vm.clone());
    if let Err(refusal) = network.write_names() {
        network.attached.remove(&kept.vm);
        return Err(refusal);
    }
    Ok(tap)
}
