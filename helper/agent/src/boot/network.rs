//! Loopback, and the one static interface by rtnetlink.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use banger_wire::config::Network;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};
use tokio::task::spawn_local;

use super::uevent::wait_for;
use super::{BootError, While};
use crate::sys;

/// How long the interface may take to appear after its driver was loaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// Brings the interfaces up.
///
/// # Errors
/// The interface did not appear, or the kernel refused a step, which the message names.
pub(super) async fn configure(network: Option<&Network>) -> Result<(), BootError> {
    // Without netlink, which an emulated processor has to translate first.
    sys::loopback_up().context(|| "loopback".to_owned())?;
    let Some(network) = network else {
        return Ok(());
    };
    let (connection, handle, _) = new_connection().context(|| "opening rtnetlink".to_owned())?;
    let connection = spawn_local(connection);
    let configured = interface(&handle, network).await;
    connection.abort();
    configured
}

async fn up(handle: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    let message = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(message).execute().await
}

async fn interface(handle: &Handle, network: &Network) -> Result<(), BootError> {
    let interfaces = Path::new("/sys/class/net");
    let index = wait_for(PATIENCE, || Ok(search(interfaces, &network.mac)))
        .context(|| format!("finding the interface {}", network.mac))?;
    let address = IpAddr::V4(network.address);
    handle
        .address()
        .add(index, address, network.prefix)
        .execute()
        .await
        .context(|| format!("address {address}/{}", network.prefix))?;
    up(handle, index)
        .await
        .context(|| format!("interface {}", network.mac))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(network.gateway)
        .output_interface(index)
        .build();
    handle
        .route()
        .add(route)
        .execute()
        .await
        .context(|| format!("default route by {}", network.gateway))
}

fn search(interfaces: &Path, mac: &str) -> Option<u32> {
    let entries = fs::read_dir(interfaces).ok()?;
    entries.filter_map(io::Result::ok).find_map(|entry| {
        let read = |name| fs::read_to_string(entry.path().join(name)).ok();
        let matches = read("address")?.trim().eq_ignore_ascii_case(mac);
        matches.then(|| read("ifindex")?.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_found_by_its_address() {
        let interfaces = tempfile::tempdir().unwrap();
        let eth0 = interfaces.path().join("eth0");
        fs::create_dir(&eth0).unwrap();
        fs::write(eth0.join("address"), "52:54:00:aa:bb:cc\n").unwrap();
        fs::write(eth0.join("ifindex"), "2\n").unwrap();
        assert_eq!(search(interfaces.path(), "52:54:00:AA:BB:CC"), Some(2));
        assert_eq!(search(interfaces.path(), "52:54:00:aa:bb:cd"), None);
    }
}
