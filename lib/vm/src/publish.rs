//! Published ports: the intent in the VM's row, and the monitor that listens. The caller holds `vm[id]`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use banger_wire::monitor::{self, ControlReply, ControlRequest};
use banger_wire::proc_net::{self, Entry, LISTEN};
use lib_model::Publish;
use lib_store::{Store, VmGuard, VmRow};

use crate::{Control, Interrupt, Life, VmError, life};

/// A monitor answers at once unless the machine is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// Free ports that somebody else may take before we do.
const ATTEMPTS: usize = 20;

/// What became of publishing or unpublishing a port.
#[derive(Debug)]
pub struct Published {
    /// With the port that was chosen.
    pub port: Publish,
    /// The VM runs, so somebody listens.
    pub active: bool,
    /// It was not so before.
    pub changed: bool,
}

/// Gives every port 0 a number that is free now, and refuses one port for two.
///
/// # Errors
/// [`VmError::OutOfRange`] for a port that is wanted twice; a host without free ports.
pub(crate) fn resolve(wanted: &[Publish]) -> Result<Vec<Publish>, VmError> {
    let mut taken = BTreeSet::new();
    wanted
        .iter()
        .map(|publish| {
            let publish = match publish.host_port {
                0 => Publish {
                    host_port: free_port(publish.address)?,
                    ..*publish
                },
                _ => *publish,
            };
            match taken.insert(publish.host()) {
                true => Ok(publish),
                false => Err(VmError::OutOfRange {
                    what: "publish",
                    value: publish.to_string(),
                    range: "each port of the host once".into(),
                }),
            }
        })
        .collect()
}

fn free_port(address: IpAddr) -> Result<u16, VmError> {
    TcpListener::bind((address, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| VmError::Listen {
            address: (address, 0).into(),
            source,
        })
}

/// Publishes a port, now if the VM runs, and at each start.
///
/// # Errors
/// [`VmError::PortInUse`]; then nothing is changed.
pub fn publish(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    vm: &VmRow,
    wanted: Publish,
) -> Result<Published, VmError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let port = resolve(&[wanted])?[0];
        match publish_one(store, guard, vm, port) {
            // Somebody was faster than we.
            Err(VmError::PortInUse { .. }) if wanted.host_port == 0 && attempts < ATTEMPTS => {}
            other => return other,
        }
    }
}

fn publish_one(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    vm: &VmRow,
    port: Publish,
) -> Result<Published, VmError> {
    let known = vm.spec.publish.contains(&port);
    if !known {
        if vm
            .spec
            .publish
            .iter()
            .any(|other| other.host() == port.host())
        {
            return Err(VmError::PortInUse {
                address: port.host(),
                holder: Some(format!("{} itself, for another port", vm.name)),
            });
        }
        let mut ports = vm.spec.publish.clone();
        ports.push(port);
        record(store, guard, vm, ports)?;
    }
    match tell(store, vm, ControlRequest::Publish(wire(port))) {
        Ok(active) => {
            if !known {
                store.happened(&vm.id, &vm.name, "published", Some(&port.to_string()));
            }
            Ok(Published {
                port,
                active,
                changed: !known,
            })
        }
        Err(error) => {
            if !known {
                record(store, guard, vm, vm.spec.publish.clone())?;
            }
            Err(error)
        }
    }
}

/// Unpublishes a port: new connections are refused, those that are there go on.
///
/// # Errors
/// A store or a monitor that cannot be reached.
pub fn unpublish(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    vm: &VmRow,
    port: Publish,
) -> Result<Published, VmError> {
    let changed = vm.spec.publish.contains(&port);
    if changed {
        let mut ports = vm.spec.publish.clone();
        ports.retain(|other| *other != port);
        record(store, guard, vm, ports)?;
    }
    // Also when it was not recorded: an earlier attempt may have ended in between.
    tell(store, vm, ControlRequest::Unpublish(wire(port)))?;
    if changed {
        store.happened(&vm.id, &vm.name, "unpublished", Some(&port.to_string()));
    }
    Ok(Published {
        port,
        active: false,
        changed,
    })
}

fn record(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    vm: &VmRow,
    ports: Vec<Publish>,
) -> Result<(), VmError> {
    let mut vm = vm.clone();
    vm.spec.publish = ports;
    let create = guard.create()?;
    Ok(store.update_vm(&create, &vm)?)
}

/// Tells the monitor, if there is one; returns whether there is.
fn tell(store: &Store, vm: &VmRow, request: ControlRequest) -> Result<bool, VmError> {
    let context = store.context();
    let failed = |source| VmError::Monitor {
        vm: vm.name.to_string(),
        source,
    };
    if life(context, vm) == Life::Dead {
        return Ok(false);
    }
    let mut control = Control::connect(context, vm).map_err(failed)?;
    match control.ask(&request, Some(PATIENCE), &Interrupt::never())? {
        Some(ControlReply::Done) => Ok(true),
        // It ended meanwhile.
        Some(ControlReply::Exited(_)) => Ok(false),
        Some(ControlReply::PortInUse { address }) => Err(port_in_use(store, address)),
        Some(ControlReply::Error { message }) => Err(failed(io::Error::other(message))),
        Some(_) => Err(failed(io::Error::other("an answer that does not fit"))),
        None => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

pub(crate) fn wire(port: Publish) -> monitor::Publish {
    monitor::Publish {
        address: port.address,
        host_port: port.host_port,
        guest_port: port.guest_port,
    }
}

/// The error for a port that is taken, with who has it as far as that can be known.
pub(crate) fn port_in_use(store: &Store, address: SocketAddr) -> VmError {
    let of_vm = store.vms().ok().and_then(|vms| {
        vms.into_iter().find(|vm| {
            vm.spec
                .publish
                .iter()
                .any(|port| port.host_port == address.port())
                && is_monitor(process(address), store, vm)
        })
    });
    let holder = match of_vm {
        Some(vm) => Some(format!("the VM {}", vm.name)),
        None => process(address).map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        }),
    };
    VmError::PortInUse { address, holder }
}

fn is_monitor(pid: Option<i32>, store: &Store, vm: &VmRow) -> bool {
    pid.is_some() && crate::liveness::monitor(store.context(), vm) == pid
}

/// Who listens there: its own processes and, for root, those of all.
fn process(address: SocketAddr) -> Option<i32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables
        .iter()
        .find_map(|table| listener(&fs::read_to_string(table).ok()?, address))?;
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
            descriptors.into_iter().flatten().flatten().any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|link| link.to_str() == Some(&*wanted))
            })
        })
}

/// The inode of the listener that takes this address, by itself or for every address.
fn listener(table: &str, wanted: SocketAddr) -> Option<u64> {
    let fits = |entry: &Entry| {
        let (address, wanted_address) = (entry.local.ip(), wanted.ip());
        entry.state == LISTEN
            && entry.local.port() == wanted.port()
            && (address == wanted_address
                || address.is_unspecified()
                || wanted_address.is_unspecified())
    };
    let mut entries = proc_net::entries(table);
    entries.find(fits).map(|entry| entry.inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn who_has_a_port_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(process(address), i32::try_from(std::process::id()).ok());
        let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        assert_eq!(process(everywhere), process(address));
    }

    #[test]
    fn ports_are_chosen_and_each_is_published_once() {
        let any: Publish = "0:80".parse().unwrap();
        let fixed: Publish = "8080:80".parse().unwrap();
        let resolved = resolve(&[any, fixed]).unwrap();
        assert_ne!(resolved[0].host_port, 0);
        assert_eq!(resolved[1], fixed);
        let twice = resolve(&[fixed, "8080:81".parse().unwrap()]);
        assert!(matches!(twice, Err(VmError::OutOfRange { .. })));
    }
}
