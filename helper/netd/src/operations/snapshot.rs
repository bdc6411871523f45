//! `snapshot`: an image and what was written to it as one block device. It is the caller's descriptor that keeps it and
//! the devices below.

use banger_proto::{Code, Refusal, Reply, Response, VmId};

use super::{Outcome, Passed, only, owned};
use crate::loops;
use crate::mapper::{Mapper, SECTOR};
use crate::network::{Network, failed};
use crate::options::Feature;
use crate::passed::{self, Access};
use crate::peer::Peer;

/// Of the device, in bytes.
const BLOCK: u64 = 4096;

pub(super) async fn run(
    network: &mut Network,
    peer: &Peer,
    vm: &VmId,
    size: u64,
    descriptors: Passed,
) -> Outcome {
    let kept = owned(network, peer, vm)?;
    network.refuse_unless_offered(Feature::Disks)?;
    let [image, exceptions] = only(descriptors)?;
    let image = passed::file("the image", image, peer, Access::Read)?;
    let exceptions = passed::file(
        "the file of exceptions",
        exceptions,
        peer,
        Access::ReadWrite,
    )?;
    let length = image.metadata().map_err(failed("look at the image"))?.len();
    if size == 0 || !size.is_multiple_of(BLOCK) || !length.is_multiple_of(SECTOR) || size < length {
        let message = format!(
            "{size} bytes for an image of {length}: must be a multiple of {BLOCK} and not smaller than the image"
        );
        return Err(Refusal::new(Code::Invalid, message));
    }
    let what = format!("map a snapshot for {vm}");
    let mapper = Mapper::open().map_err(|error| {
        failed(&*what)(error).hint("modprobe dm-snapshot   (the kernel needs the device mapper)")
    })?;
    let there = mapper.ours().map_err(failed(&*what))?;
    if there.contains(vm) {
        let message = format!("the VM {vm} has a snapshot already");
        return Err(
            Refusal::new(Code::Busy, message).hint("banger-vm stop   (or close its device)")
        );
    }
    // Both go with the last device above them.
    let (base, _base) = loops::make(vm, &image, true).map_err(failed(&*what))?;
    let (over, _over) = loops::make(vm, &exceptions, false).map_err(failed(&*what))?;
    let device = mapper.snapshot(vm, (&base, length), &over, size);
    let device = device.map_err(failed(&*what))?;
    let response = Response {
        changed: true,
        reply: Reply::Reservation(Some(network.reservation(&kept))),
    };
    Ok((response, Some(device.into())))
}
