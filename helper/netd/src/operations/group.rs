//! `group`: VMs of one user in one group reach each other.

use std::collections::HashSet;

use banger_proto::{Code, GroupName, Refusal, Reply, VmId};

use super::{Outcome, nat, owned, replied};
use crate::journal::{Group, Kept};
use crate::network::Network;
use crate::peer::Peer;

pub(super) async fn run(
    network: &mut Network,
    peer: &Peer,
    vm: &VmId,
    name: Option<&GroupName>,
) -> Outcome {
    let before = owned(network, peer, vm)?;
    let group = match name {
        Some(name) => Some(Group {
            name: name.clone(),
            number: number(network, before.uid, name)?,
        }),
        None => None,
    };
    let after = Kept {
        group,
        ..before.clone()
    };
    let changed = before != after;
    if changed {
        nat::switch(network, before, after.clone()).await?;
        // VMs of a group know each other's names.
        network.note_old_names();
    }
    replied(
        changed,
        Reply::Reservation(Some(network.reservation(&after))),
    )
}

/// The number of the owner's group of that name, or one that no group has.
fn number(network: &Network, uid: u32, name: &GroupName) -> Result<u16, Refusal> {
    let kept = || network.journal.kept().values();
    let groups = kept().filter_map(|kept| Some((kept.uid, kept.group.as_ref()?)));
    if let Some((_, group)) = groups
        .clone()
        .find(|(owner, group)| *owner == uid && group.name == *name)
    {
        return Ok(group.number);
    }
    let taken: HashSet<u16> = groups.map(|(_, group)| group.number).collect();
    (1..=u16::MAX)
        .find(|number| !taken.contains(number))
        .ok_or_else(|| {
            Refusal::new(
                Code::Exhausted,
                "there are 65,535 groups, which is the limit",
            )
        })
}
