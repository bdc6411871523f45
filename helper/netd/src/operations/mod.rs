//! One file for each verb, with the same four steps: authorise, validate, act, record. `OPERATIONS.md`
//! has a row for each.

mod admit;
mod attach;
mod detach;
mod down;
mod gc;
mod group;
mod launch;
mod list;
mod r#loop;
mod nat;
mod release;
mod reserve;
mod route;
mod signal;
mod snapshot;
mod status;
mod unmap;
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
pub(crate) async fn perform(
    network: &mut Network,
    peer: &Peer,
    request: &Request,
    descriptors: Vec<OwnedFd>,
) -> Outcome {
    match request {
        Request::Up {} => up::run(network, peer).await,
        Request::Down {} => down::run(network, peer).await,
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
        Request::Admit { enabled } => admit::run(network, peer, *enabled).await,
        Request::Loop { vm, read_only } => {
            r#loop::run(network, peer, vm, *read_only, descriptors).await
        }
        Request::Snapshot { vm, size } => {
            snapshot::run(network, peer, vm, *size, descriptors).await
        }
        Request::Unmap { vm } => unmap::run(network, peer, vm).await,
        Request::Launch { vm, machine } => {
            launch::run(network, peer, vm, machine, descriptors).await
        }
        Request::Signal { vm, signal } => signal::run(network, peer, vm, *signal).await,
    }
}

/// As many descriptors as the verb has; the connection has counted them.
fn only<const COUNT: usize>(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; COUNT], Refusal> {
    let came = descriptors.len();
    descriptors.try_into().map_err(|_| {
        Refusal::new(
            Code::Invalid,
            format!("{came} descriptors came instead of {COUNT}"),
        )
    })
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
