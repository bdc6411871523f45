//! What the agent is told about this VM.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use banger_wire::config::{Disk, GuestConfig, Network, Process, Share, Ssh, Volume};
use lib_config::{Config, Environment};
use lib_model::{ImageRecord, KernelRecord, VmId};
use lib_net::Reservation;
use lib_store::{Context, VmRow, VmSpec};

use crate::{DiskKind, SharePlan, VmError, init, share};

/// Serials of the disks, as the agent looks for them.
pub(crate) mod serial {
    pub(crate) const IMAGE: &str = "banger-image";
    pub(crate) const DATA: &str = "banger-data";
    pub(crate) const MODULES: &str = "banger-modules";
    pub(crate) const WORK: &str = "banger-work";

    /// Of a volume, by its place in the VM's list.
    pub(crate) fn volume(index: usize) -> String {
        format!("banger-volume-{index}")
    }

    /// Mount tag of a share, by its place in the VM's list.
    pub(crate) fn share(index: usize) -> String {
        format!("banger-share-{index}")
    }
}

/// The configuration of one boot.
///
/// # Errors
/// When the kernel has no randomness.
pub(crate) fn guest_config(
    vm: &VmRow,
    image: &ImageRecord,
    kernel: &KernelRecord,
    shared: &[SharePlan],
    ssh: Ssh,
    reservation: Option<&Reservation>,
) -> io::Result<GuestConfig> {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy).map_err(io::Error::other)?;
    let disk = |serial: &str, filesystem: &str| Disk {
        serial: serial.into(),
        filesystem: filesystem.into(),
    };
    let kind: DiskKind = vm.spec.disk_kind.parse().unwrap_or_default();
    let (init, entrypoint) = init::for_guest(&vm.spec);
    Ok(GuestConfig {
        protocol: banger_wire::PROTOCOL,
        hostname: vm.name.to_string(),
        root: kind.root(image, vm.spec.disk),
        modules: (kernel.modules > 0).then(|| disk(serial::MODULES, "ext4")),
        volumes: volumes(&vm.spec, &image.config.work_seed),
        shares: shares(shared),
        host_store: vm
            .spec
            .share_store
            .then(|| share::STORE_IN_GUEST.to_owned()),
        network: match reservation {
            Some(reservation) => Some(bridge_network(reservation)),
            None => (vm.spec.network == "user").then(|| user_network(&vm.id)),
        },
        process: Process {
            env: environment(&image.config.env, &vm.spec.env),
            user: image.config.user.clone(),
            cwd: image.config.working_dir.clone(),
        },
        entrypoint,
        stop_signal: init::stop_signal(&image.config.stop_signal),
        init,
        clock_ns: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        entropy: entropy.iter().map(|b| format!("{b:02x}")).collect(),
        ssh: Some(ssh),
    })
}

/// Who the VM is, and whom it lets in: the store's own key and those of the configuration.
///
/// # Errors
/// Keys that cannot be read or made; a setting that names no key.
pub(crate) fn ssh(context: &Context, id: &VmId, note: &dyn Fn(&str)) -> Result<Ssh, VmError> {
    let host_key = lib_ssh::host_key(&context.vm(id), id)?;
    Ok(Ssh {
        host_key: host_key.private,
        authorized_keys: authorized_keys(context, note)?,
    })
}

/// Whom every VM lets in: who has the store's own key, and those of the configuration.
///
/// # Errors
/// Keys that cannot be read or made; a setting that names no key.
pub fn authorized_keys(context: &Context, note: &dyn Fn(&str)) -> Result<Vec<String>, VmError> {
    let config = Config::load(&Environment::process())?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let configured = &config.vm.authorized_keys;
    let mut keys = lib_ssh::authorized_keys(configured, home.as_deref(), note)?;
    keys.push(lib_ssh::client_key(context)?.public);
    Ok(keys)
}

/// The work disk first: a volume may lie below it.
fn volumes(spec: &VmSpec, work_seed: &str) -> Vec<Volume> {
    let work = spec.work_disk.map(|_| Volume {
        serial: serial::WORK.into(),
        path: String::new(),
        read_only: false,
        seed: true,
        seed_from: work_seed.to_owned(),
    });
    let named = spec
        .volumes
        .iter()
        .enumerate()
        .map(|(index, volume)| Volume {
            serial: serial::volume(index),
            path: volume.path.clone(),
            read_only: volume.read_only,
            seed: false,
            seed_from: String::new(),
        });
    work.into_iter().chain(named).collect()
}

fn shares(plans: &[SharePlan]) -> Vec<Share> {
    let shares = plans.iter().map(|share| Share {
        kind: share.kind,
        tag: share.tag.clone(),
        path: share.path.clone(),
        read_only: share.read_only,
    });
    shares.collect()
}

/// The image's environment and the VM's, later wins. A guest without a locale gets the one that every libc has.
fn environment(image: &[String], vm: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    let named = |name: &str| image.iter().chain(vm).any(|entry| entry.starts_with(name));
    if !["LANG=", "LC_ALL=", "LC_CTYPE="].into_iter().any(named) {
        all.push("LANG=C.UTF-8".to_owned());
    }
    all.extend(image.iter().chain(vm).cloned());
    all
}

/// The network inside QEMU (its documentation, "Using the user mode network stack").
fn user_network(id: &VmId) -> Network {
    Network {
        mac: mac(id),
        address: Ipv4Addr::new(10, 0, 2, 15),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        resolvers: vec![Ipv4Addr::new(10, 0, 2, 3).into()],
    }
}

/// The host on the bridge is the gateway, and resolves names.
fn bridge_network(reservation: &Reservation) -> Network {
    Network {
        mac: reservation.mac.to_string(),
        address: reservation.address,
        prefix: reservation.prefix,
        gateway: reservation.gateway,
        resolvers: vec![reservation.gateway.into()],
    }
}

/// A locally administered unicast address that is derived from the VM's id.
pub(crate) fn mac(id: &VmId) -> String {
    let hex = id.as_str();
    format!("52:54:00:{}:{}:{}", &hex[0..2], &hex[2..4], &hex[4..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_is_given_to_who_has_none() {
        let list = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            environment(&list("A=1"), &list("B=2")),
            list("LANG=C.UTF-8 A=1 B=2")
        );
        assert_eq!(environment(&list("LANG=C"), &[]), list("LANG=C"));
        assert_eq!(environment(&[], &list("LC_ALL=C")), list("LC_ALL=C"));
    }

    #[test]
    fn the_hardware_address_follows_the_id() {
        assert_eq!(
            mac(&VmId::try_from("a1b2c3d4e5f60718").unwrap()),
            "52:54:00:a1:b2:c3"
        );
    }
}
