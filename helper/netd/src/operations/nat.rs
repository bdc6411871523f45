//! `nat`: a VM may go out into the world through the host's address, or not.

use banger_proto::{Reply, VmId};

use super::{Outcome, owned, replied};
use crate::journal::Kept;
use crate::network::{Network, failed};
use crate::peer::Peer;
use banger_proto::Refusal;

pub(super) async fn run(network: &mut Network, peer: &Peer, vm: &VmId, enabled: bool) -> Outcome {
    let before = owned(network, peer, vm)?;
    let after = Kept {
        nat: enabled,
        ..before.clone()
    };
    let changed = before != after;
    if changed {
        switch(network, before, after.clone()).await?;
        // Who may go out may ask for names there.
        network.note_old_names();
    }
    replied(
        changed,
        Reply::Reservation(Some(network.reservation(&after))),
    )
}

/// Notes the new state, then makes it so; on an error the old one is noted and loaded again.
pub(super) async fn switch(
    network: &mut Network,
    before: Kept,
    after: Kept,
) -> Result<(), Refusal> {
    let noted = network.journal.set(after.clone());
    noted.map_err(failed(format!("note the change of {}", after.vm)))?;
    let mut done = network.apply(Some(&before), Some(&after)).await;
    if done.is_ok() {
        done = match network.bridge_is_ours().await {
            Ok(true) => network.forward_if_needed(),
            Ok(false) => Ok(()),
            Err(refusal) => Err(refusal),
        };
    }
    if let Err(refusal) = done {
        // The cause is told; what fails here again is mended by the next load of the rules.
        let _ = network.journal.set(before.clone());
        let _ = network.apply(Some(&after), Some(&before)).await;
        return Err(refusal);
    }
    Ok(())
}
