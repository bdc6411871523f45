//! One file for each verb, with the same four steps: authorise, validate, act, record. `OPERATIONS.md`
//! has a row for each.

mod attach;
mod detach;
mod down;
mod gc;
mod group;
mod list;
mod nat;
mod release;
mod reserve;
mod route;
mod status;
mod up;

use std::os::fd::OwnedFd;

use banger_proto::{Code, Refusal, Reply, Request, Response, VmId};

use crate::journal::Kept;
use crate::network::Network;
use crate::peer::Peer;

/// What a verb came to: the response, and a descriptor that goes with it.
pub(crate) type Outcome = Result<(Response, Option<OwnedFd>), Refusal>;

/// Does what is asked.
///
/// # Errors
/// Why not; then everything is as it was.
pub(crate) async fn perform(network: &mut Network, peer: &Peer, request: &Request) -> Outcome {
    match request {
        Request::Up {} => up::run(network).await,
        Request::Down {} => down::run(network).await,
        Request::Status {} => status::run(network).await,
        Request::List {} => list::run(network, peer).await,
        Request::Reserve { vm, name, store } => reserve::run(network, peer, vm, name, store).await,
        Request::Attach { vm } => attach::run(network, peer, vm).await,
        Request::Detach { vm } => detach::run(network, peer, vm).await,
        Request::Release { vm } => release::run(network, peer, vm).await,
        Request::Nat { vm, enabled } => nat::run(network, peer, vm, *enabled).await,
        Request::Group { vm, group } => group::run(network, peer, vm, group.as_ref()).await,
        Request::Route { change } => route::run(network, *change).await,
        Request::Gc {
            store,
            keep,
            min_age_s,
        } => gc::run(network, peer, store, keep, *min_age_s).await,
    }
}

/// The reservation of a VM, if the caller may change it.
fn owned(network: &Network, peer: &Peer, vm: &VmId) -> Result<Kept, Refusal> {
    match network.journal.get(vm) {
        Some(kept) if peer.owns(kept.uid) => Ok(kept.clone()),
        // Whether somebody else has it is nobody's business.
        _ => Err(Refusal::new(
            Code::NotFound,
            format!("you have no reservation for the VM {vm}"),
        )
        .hint("banger-net list")),
    }
}

fn replied(changed: bool, reply: Reply) -> Outcome {
    Ok((Response { changed, reply }, None))
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
