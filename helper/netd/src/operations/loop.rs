//! `loop`: a block device of a file. It is the caller's descriptor that keeps it, so whatever dies, it goes.

use banger_proto::{Code, Refusal, Reply, Response, VmId};

use super::{Outcome, Passed, only, owned};
use crate::loops;
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::passed::{self, Access};
use crate::peer::Peer;

/// Of one VM.
const MOST: usize = 8;

pub(super) async fn run(
    network: &mut Network,
    peer: &Peer,
    vm: &VmId,
    read_only: bool,
    descriptors: Passed,
) -> Outcome {
    let kept = owned(network, peer, vm)?;
    network.refuse_unless_offered(Feature::Disks)?;
    let access = if read_only {
        Access::Read
    } else {
        Access::ReadWrite
    };
    let [file] = only(descriptors)?;
    let file = passed::file("the file", file, peer, access)?;
    let ours = loops::ours().map_err(failed("look at loop devices"))?;
    if ours.iter().filter(|device| device.vm == *vm).count() >= MOST {
        let message = format!("the VM {vm} has {MOST} loop devices, which is the limit");
        return Err(Refusal::new(Code::Exhausted, message).hint("close one of them"));
    }
    let (_, device) = loops::make(vm, &file, read_only)
        .map_err(failed(format!("make a loop device for {vm}")))?;
    let response = Response {
        changed: true,
        reply: Reply::Reservation(Some(network.reservation(&kept))),
    };
    Ok((response, Some(device.into())))
}
