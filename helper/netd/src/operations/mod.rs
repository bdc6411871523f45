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
use crate::serve::Server;

/// What a verb came to: the response, and a descriptor that goes with it.
pub(crate) type Outcome = Result<(Response, Option<OwnedFd>), Refusal>;

/// What the caller passed, or why it is not taken; who may not do it at all hears of that first.
pub(crate) type Passed = Result<Vec<OwnedFd>, Refusal>;

/// Does what is asked.
///
/// # Errors
/// Why not; then everything is as it was.
pub(crate) async fn perform(
    server: &Server,
    peer: &Peer,
    request: &Request,
    descriptors: Passed,
) -> Outcome {
    let network = || server.network.lock();
    match request {
        // What may take long has the network for parts of it only.
        Request::Launch { vm, machine } => {
            launch::run(server, peer, vm, machine, descriptors).await
        }
        Request::Release { vm } => release::run(server, peer, vm).await,
        Request::Gc {
            store,
            keep,
            min_age_s,
        } => gc::run(server, peer, store, keep, *min_age_s).await,
        Request::Route { change } => route::run(server, peer, *change).await,
        Request::Up {} => up::run(&mut *network().await, peer).await,
        Request::Down {} => down::run(&mut *network().await, peer).await,
        Request::Status {} => status::run(&mut *network().await).await,
        Request::List {} => list::run(&mut *network().await, peer).await,
        Request::Reserve { vm, name, store } => {
            reserve::run(&mut *network().await, peer, vm, name, store).await
        }
        Request::Attach { vm } => attach::run(&mut *network().await, peer, vm).await,
        Request::Detach { vm } => detach::run(&mut *network().await, peer, vm).await,
        Request::Nat { vm, enabled } => nat::run(&mut *network().await, peer, vm, *enabled).await,
        Request::Group { vm, group } => {
            group::run(&mut *network().await, peer, vm, group.as_ref()).await
        }
        Request::Admit { enabled } => admit::run(&mut *network().await, peer, *enabled).await,
        Request::Loop { vm, read_only } => {
            r#loop::run(&mut *network().await, peer, vm, *read_only, descriptors).await
        }
        Request::Snapshot { vm, size } => {
            snapshot::run(&mut *network().await, peer, vm, *size, descriptors).await
        }
        Request::Unmap { vm } => unmap::run(&mut *network().await, peer, vm).await,
        Request::Signal { vm, signal } => {
            signal::run(&mut *network().await, peer, vm, *signal).await
        }
    }
}

/// As many descriptors as the verb has; the connection has counted them.
fn only<const COUNT: usize>(descriptors: Passed) -> Result<[OwnedFd; COUNT], Refusal> {
    let descriptors = descriptors?;
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
