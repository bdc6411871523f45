//! `launch`: a VM's machine monitor in a jail. The caller gets what tells of its end.

use banger_proto::{Code, Jail, Machine, Refusal, Reply, Response, VmId};

use super::{Outcome, Passed, owned};
use crate::jail::{Jails, Parts};
use crate::journal::Kept;
use crate::network::failed;
use crate::options::Feature;
use crate::passed::{self, Access};
use crate::peer::Peer;
use crate::pool::mac;
use crate::serve::Server;

pub(super) async fn run(
    server: &Server,
    peer: &Peer,
    vm: &VmId,
    machine: &Machine,
    descriptors: Passed,
) -> Outcome {
    let network = server.network.lock().await;
    let kept = owned(&network, peer, vm)?;
    network.refuse_unless_offered(Feature::Jails)?;
    network.refuse_outside(&kept)?;
    machine
        .validate()
        .map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
    let parts = parts(peer, &kept, machine, descriptors)?;
    let (uid, jails) = (network.jail_uid(&kept), network.jails.clone());
    // A kernel is copied, and another launch or the end of the last jail is waited for.
    drop(network);
    let turn = jails.turns.take(vm).await;
    owned(&*server.network.lock().await, peer, vm)?;
    if Jails::is_running(vm).map_err(failed(format!("look at the jail of {vm}")))? {
        let refusal = Refusal::new(Code::Busy, format!("the VM {vm} runs already"));
        return Err(refusal.hint(format!("banger-vm stop {}", kept.name)));
    }
    let launched = jails.launch(&turn, vm, uid, machine, &parts).await;
    let process = launched.map_err(failed(format!("start {vm} in a jail")))?;
    let response = Response {
        changed: true,
        reply: Reply::Jail(Jail {
            vm: vm.clone(),
            running: true,
            uid,
        }),
    };
    Ok((response, Some(process)))
}

/// In the order of [`Machine`]; there are exactly as many as it says.
fn parts(
    peer: &Peer,
    kept: &Kept,
    machine: &Machine,
    descriptors: Passed,
) -> Result<Parts, Refusal> {
    let mut rest = descriptors?.into_iter();
    let mut next = || {
        let missing = || Refusal::new(Code::Invalid, "a descriptor is missing");
        rest.next().ok_or_else(missing)
    };
    let file = |what: &str, fd, access| passed::file(what, fd, peer, access);
    Ok(Parts {
        kernel: file("the kernel", next()?, Access::Read)?,
        initrd: file("the initramfs", next()?, Access::Read)?,
        log: file("the log", next()?, Access::Append)?,
        console: passed::socket("the console's descriptor", next()?)?,
        qmp: passed::socket("the QMP descriptor", next()?)?,
        agent: passed::socket("the agent's descriptor", next()?)?,
        tap: match machine.network {
            true => Some((passed::tap(next()?, kept)?, mac(kept.address))),
            false => None,
        },
        disks: machine
            .disks
            .iter()
            .map(|disk| match disk.read_only {
                true => file("a disk", next()?, Access::Read),
                false => file("a disk", next()?, Access::ReadWrite),
            })
            .collect::<Result<_, _>>()?,
    })
}
