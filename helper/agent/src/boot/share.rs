//! Directories of the host. Runs inside the image's root, whose links lead nowhere else.

use std::fs;

use banger_wire::config::Share;
use nix::mount::{MsFlags, mount};

use super::{BootError, While};

/// Of one request, in bytes; the default of 128 KiB halves the throughput (9p.rst).
const MESSAGE: u32 = 512 * 1024;

/// Mounts the shares.
///
/// # Errors
/// The kernel cannot mount one.
pub(super) fn mount_all(shares: &[Share]) -> Result<(), BootError> {
    shares.iter().try_for_each(|share| {
        let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        flags.set(MsFlags::MS_RDONLY, share.read_only);
        let options = format!("trans=virtio,version=9p2000.L,msize={MESSAGE}");
        let (tag, path) = (share.tag.as_str(), share.path.as_str());
        fs::create_dir_all(path)
            .and_then(|()| {
                Ok(mount(
                    Some(tag),
                    path,
                    Some("9p"),
                    flags,
                    Some(options.as_str()),
                )?)
            })
            .context(|| format!("mounting the host's directory on {path}"))
    })
}
