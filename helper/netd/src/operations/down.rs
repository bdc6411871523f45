//! `down`: the bridge and the rules are gone; reservations stay.

use banger_proto::{Code, Refusal, Reply};

use super::{Outcome, replied};
use crate::network::Network;

pub(super) async fn run(network: &mut Network) -> Outcome {
    network.look().await?;
    let attached = network.attached.len();
    if attached > 0 {
        let message = format!("{attached} VMs are attached to {}", network.bridge);
        let refusal = Refusal::new(Code::Busy, message);
        return Err(refusal.hint("banger-net list   (and banger-vm stop those that run)"));
    }
    let changed = match network.take_down().await {
        Ok(changed) => changed,
        Err(refusal) => {
            // Half a network would be worse than either; the cause is told.
            network.distrust();
            let _ = network.ensure().await;
            return Err(refusal);
        }
    };
    replied(changed, Reply::Network(network.status_when(false)?))
}
