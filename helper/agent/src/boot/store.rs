//! The host's Nix store below the guest's own: what the image and the guest have there covers it.
//!
//! Runs inside the image's root. The database is the image's, so what is valid in the guest is what the image was made
//! of; the rest of the host's store is there to be found, and goes with the host's garbage collector.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::{BootError, While};

const STORE: &str = "/nix/store";
/// Of what the guest writes, on the disk with the data, or on the root where that is a disk of its own.
const WRITTEN: &str = "nix-store";
const ON_ROOT: &str = "/nix/.rw-store";

/// Mounts the store. `data` is the data disk of an overlay root, which cannot have the upper layer itself.
///
/// # Errors
/// The kernel refuses the overlay.
pub(super) fn mount_over(host: &str, data: Option<&File>) -> Result<(), BootError> {
    mount_at(Path::new(STORE), host, data)
        .context(|| format!("joining the host's store with {STORE}"))
}

fn mount_at(store: &Path, host: &str, data: Option<&File>) -> io::Result<()> {
    let written = match data {
        Some(data) => PathBuf::from(format!("/proc/self/fd/{}/{WRITTEN}", data.as_raw_fd())),
        None => PathBuf::from(ON_ROOT),
    };
    let [upper, work] = ["upper", "work"].map(|name| written.join(name));
    for directory in [store, &upper, &work] {
        fs::create_dir_all(directory)?;
    }
    // The image's own is on a disk of the guest, and so faster.
    let options = format!(
        "lowerdir={}:{host},upperdir={},workdir={},index=off,metacopy=off",
        store.display(),
        upper.display(),
        work.display()
    );
    let kind = Some("overlay");
    let none = MsFlags::empty();
    Ok(mount(kind, store, kind, none, Some(options.as_str()))?)
}
