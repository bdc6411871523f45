//! The virtio-serial port that leads to the host.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_wire::SERIAL_PORT_NAME;

use super::uevent::wait_for;
use super::{BootError, While};

/// How long the host may take to name the port: it does so after the driver's start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the port.
///
/// # Errors
/// It did not appear or cannot be opened.
pub(super) fn open() -> Result<File, BootError> {
    let ports = Path::new("/sys/class/virtio-ports");
    let device = wait_for(PATIENCE, || Ok(search(ports)))
        .context(|| format!("finding the virtio-serial port {SERIAL_PORT_NAME}"))?;
    File::options()
        .read(true)
        .write(true)
        .open(&device)
        .context(|| format!("opening {}", device.display()))
}

fn search(ports: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(ports).ok()?;
    entries.filter_map(io::Result::ok).find_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == SERIAL_PORT_NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_name() {
        let ports = tempfile::tempdir().unwrap();
        assert_eq!(search(ports.path()), None);
        for (port, name) in [("vport0p1", "other"), ("vport1p2", "org.banger.agent.1\n")] {
            std::fs::create_dir(ports.path().join(port)).unwrap();
            std::fs::write(ports.path().join(port).join("name"), name).unwrap();
        }
        assert_eq!(search(ports.path()), Some("/dev/vport1p2".into()));
    }
}
