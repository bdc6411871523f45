//! Finds block devices by their serial.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BootError;
use super::uevent::wait_for;

/// How long a disk may take to appear after its driver was loaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// The device file of the disk with this serial; waits for one that is late.
///
/// # Errors
/// It did not appear; says which disks there are.
pub(super) fn find(serial: &str) -> Result<PathBuf, BootError> {
    let block = Path::new("/sys/block");
    wait_for(PATIENCE, || Ok(search(block, serial))).map_err(|error| {
        let seen: Vec<_> = serials(block)
            .map(|(name, serial)| format!("{name}={serial}"))
            .collect();
        BootError(format!(
            "finding the disk with serial {serial}: {error} (there are: {})",
            if seen.is_empty() {
                "none".to_owned()
            } else {
                seen.join(", ")
            }
        ))
    })
}

fn search(block: &Path, serial: &str) -> Option<PathBuf> {
    let (name, _) = serials(block).find(|(_, s)| s == serial)?;
    Some(Path::new("/dev").join(name))
}

fn serials(block: &Path) -> impl Iterator<Item = (String, String)> {
    let entries = std::fs::read_dir(block).into_iter().flatten();
    entries.filter_map(io::Result::ok).filter_map(|entry| {
        let serial = std::fs::read_to_string(entry.path().join("serial")).ok()?;
        Some((
            entry.file_name().into_string().ok()?,
            serial.trim().to_owned(),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_serial_must_match() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "image\n"), ("vdb", "image2"), ("loop0", "")] {
            std::fs::create_dir(block.path().join(name)).unwrap();
            std::fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        std::fs::create_dir(block.path().join("ram0")).unwrap();
        assert_eq!(search(block.path(), "image"), Some("/dev/vda".into()));
        assert_eq!(search(block.path(), "image2"), Some("/dev/vdb".into()));
        assert_eq!(search(block.path(), "imag"), None);
    }
}
