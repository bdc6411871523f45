//! What the network can do here, tried for real.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use lib_model::{CheckRecord, Diagnose, SCHEMA};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Client, Endpoint, NetError, PrivilegedOps, Reservation, VmName, store_tag};

/// A host answers at once unless something drops the question.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the guest is called that is only there for a moment.
const GUEST: &str = "doctor";

/// struct virtio_net_hdr, which the interface has before each frame (linux/virtio_net.h).
const VNET_HEADER: usize = 10;

/// What else can be tried while there is a guest; gets its place in the network.
pub type More<'a> = &'a dyn Fn(&Reservation) -> Vec<CheckRecord>;

/// Tries one thing after the other, as far as one needs the one before.
pub fn doctor(endpoint: &Endpoint, more: More<'_>) -> Vec<CheckRecord> {
    let mut checks = Vec::new();
    let mut client = match endpoint.open() {
        Ok(client) => client,
        Err(error) => {
            checks.push(failed("daemon", &error));
            return checks;
        }
    };
    match client.status() {
        Ok(status) => checks.push(well("daemon", format!("{} answers", status.program))),
        Err(error) => checks.push(failed("daemon", &error)),
    }
    match client.up() {
        Ok((changed, status)) => {
            let (bridge, gateway, prefix) = (status.bridge, status.gateway, status.prefix);
            let how = if changed { "was made" } else { "is there" };
            checks.push(well(
                "bridge",
                format!("{bridge} {how}, {gateway}/{prefix}"),
            ));
        }
        Err(error) => {
            checks.push(failed("bridge", &error));
            return checks;
        }
    }
    let mut named = Vec::new();
    let probed = probe(&mut client, &mut |reservation| {
        named = more(reservation);
    });
    checks.push(match probed {
        Ok(Ok(())) => well("packet", "the host answers a guest by the bridge".into()),
        Ok(Err(error)) => CheckRecord {
            ok: false,
            hint: Some("nft list ruleset   (another firewall may drop what the bridge has)".into()),
            ..well(
                "packet",
                format!("the host does not answer a guest: {error}"),
            )
        },
        Err(error) => failed("packet", &error),
    });
    checks.extend(named);
    checks
}

/// A guest that asks who the gateway is, for as long as that takes.
fn probe(
    client: &mut Client,
    meanwhile: &mut dyn FnMut(&Reservation),
) -> Result<io::Result<()>, NetError> {
    let id = lib_model::VmId::random().map_err(|error| NetError::Broken(error.to_string()))?;
    let vm = crate::vm_id(&id);
    // One of its own, so that two doctors at once do not ask for each other.
    let name = VmName::try_from(format!("{GUEST}-{}", &id.as_str()[..8]))?;
    client.reserve(vm.clone(), name, store_tag(Path::new("doctor")))?;
    let answered = client.attach(vm.clone()).map(|(reservation, tap)| {
        let mut tap = File::from(tap);
        let answered = ask(&reservation, &mut tap);
        // The interface is there as long as it is open.
        meanwhile(&reservation);
        answered
    });
    client.release(vm)?;
    answered
}

/// Sends an ARP request (RFC 826) and waits for its answer.
fn ask(reservation: &Reservation, tap: &mut File) -> io::Result<()> {
    let mut request = vec![0; VNET_HEADER];
    request.extend([0xff; 6]);
    request.extend(reservation.mac.0);
    request.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend(reservation.mac.0);
    request.extend(reservation.address.octets());
    request.extend([0; 6]);
    request.extend(reservation.gateway.octets());
    request.resize(VNET_HEADER + 60, 0);
    tap.write_all(&request)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
        if poll(
            &mut polled,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        )? == 0
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut frame = [0; 4096];
        let length = tap.read(&mut frame)?;
        let frame = frame.get(VNET_HEADER..length).unwrap_or_default();
        let is_reply = frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 2]);
        if is_reply && frame.get(28..32) == Some(&reservation.gateway.octets()) {
            return Ok(());
        }
    }
}

fn well(name: &str, detail: String) -> CheckRecord {
    CheckRecord {
        schema: SCHEMA,
        name: name.to_owned(),
        ok: true,
        detail,
        hint: None,
    }
}

fn failed(name: &str, error: &NetError) -> CheckRecord {
    CheckRecord {
        ok: false,
        hint: error.hint(),
        ..well(name, error.to_string())
    }
}
