//! The one static interface.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use banger_wire::config::Network;

use super::uevent::wait_for;
use super::{BootError, While};
use crate::sys::netdevice::Interfaces;

/// How long the interface may take to appear after its driver was loaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// Brings the interface up.
///
/// # Errors
/// The interface did not appear, or the kernel refused a step, which the message names.
pub(super) fn configure(network: Option<&Network>) -> Result<(), BootError> {
    let Some(network) = network else {
        return Ok(());
    };
    let interfaces = Interfaces::open().context(|| "opening a socket".to_owned())?;
    let directory = Path::new("/sys/class/net");
    let name = wait_for(PATIENCE, || Ok(search(directory, &network.mac)))
        .context(|| format!("finding the interface {}", network.mac))?;
    let (address, prefix) = (network.address, network.prefix);
    interfaces
        .address(&name, address, prefix)
        .context(|| format!("address {address}/{prefix}"))?;
    interfaces
        .up(&name)
        .context(|| format!("interface {}", network.mac))?;
    interfaces
        .default_route(&name, network.gateway)
        .context(|| format!("default route by {}", network.gateway))
}

fn search(interfaces: &Path, mac: &str) -> Option<String> {
    let entries = fs::read_dir(interfaces).ok()?;
    entries.filter_map(io::Result::ok).find_map(|entry| {
        let address = fs::read_to_string(entry.path().join("address")).ok()?;
        let matches = address.trim().eq_ignore_ascii_case(mac);
        matches.then(|| entry.file_name().into_string().ok())?
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
        let name = |mac| search(interfaces.path(), mac);
        assert_eq!(name("52:54:00:AA:BB:CC").as_deref(), Some("eth0"));
        assert_eq!(name("52:54:00:aa:bb:cd"), None);
    }
}
