//! `signal`: to what runs in a VM's jail, found by its cgroup and reached by descriptors of processes.

use banger_proto::{Jail, Reply, Signal, VmId};
use nix::libc;

use super::{Outcome, owned, replied};
use crate::jail::Jails;
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::peer::Peer;

pub(super) async fn run(
    network: &mut Network,
    peer: &Peer,
    vm: &VmId,
    signal: Option<Signal>,
) -> Outcome {
    let kept = owned(network, peer, vm)?;
    network.refuse_unless_offered(Feature::Jails)?;
    let sent = match signal {
        Some(signal) => Jails::signal(vm, number(signal)),
        None => Jails::is_running(vm),
    };
    let running = sent.map_err(failed(format!("signal the jail of {vm}")))?;
    replied(
        running && signal.is_some(),
        Reply::Jail(Jail {
            vm: vm.clone(),
            running,
            uid: network.jail_uid(&kept),
        }),
    )
}

fn number(signal: Signal) -> i32 {
    match signal {
        Signal::Term => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    }
}
