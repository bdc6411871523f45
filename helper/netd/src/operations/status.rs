//! `status`: how the network is, and what is left of VMs that are gone.

use banger_proto::{Refusal, Reply, VmId};

use super::{Outcome, replied, unmap};
use crate::jail::Jails;
use crate::network::{Network, failed};
use crate::options::Feature;

pub(super) async fn run(network: &mut Network) -> Outcome {
    let orphans = network.look().await?;
    let mut leftovers: Vec<_> = orphans
        .iter()
        .map(|link| format!("interface {}", link.name))
        .collect();
    let devices = stray_devices(network)?;
    leftovers.extend(devices.iter().map(|vm| format!("block devices of {vm}")));
    let jails = stray_jails(network)?;
    leftovers.extend(jails.iter().map(|vm| format!("jail of {vm}")));
    let mut status = network.status().await?;
    status.leftovers = leftovers;
    replied(false, Reply::Network(status))
}

/// VMs that nobody reserved, for which there are block devices.
pub(super) fn stray_devices(network: &Network) -> Result<Vec<VmId>, Refusal> {
    stray(network, Feature::Disks, || {
        unmap::mapped().map_err(failed("look at block devices"))
    })
}

/// VMs that nobody reserved, in whose jails something runs.
pub(super) fn stray_jails(network: &Network) -> Result<Vec<VmId>, Refusal> {
    stray(network, Feature::Jails, || {
        Jails::running().map_err(failed("look at jails"))
    })
}

fn stray(
    network: &Network,
    feature: Feature,
    all: impl Fn() -> Result<Vec<VmId>, Refusal>,
) -> Result<Vec<VmId>, Refusal> {
    if !network.offered.contains(&feature) {
        return Ok(Vec::new());
    }
    let mut vms = all()?;
    vms.retain(|vm| network.journal.get(vm).is_none());
    vms.dedup();
    Ok(vms)
}
