//! Directories of the host. Runs inside the image's root, whose links lead nowhere else.

use std::fs;

use banger_wire::config::{Share, ShareKind};
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
        let (filesystem, options) = match share.kind {
            ShareKind::Plan9 => (
                "9p",
                Some(format!("trans=virtio,version=9p2000.L,msize={MESSAGE}")),
            ),
            ShareKind::Virtiofs => ("virtiofs", None),
        };
        let (tag, path) = (share.tag.as_str(), share.path.as_str());
        fs::create_dir_all(path)
            .and_then(|()| {
                let kind = Some(filesystem);
                Ok(mount(Some(tag), path, kind, flags, options.as_deref())?)
            })
            .context(|| format!("mounting the host's directory on {path} as {filesystem}"))
    })
}
