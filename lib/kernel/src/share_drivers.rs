//! By which drivers a guest of this kernel can see directories of the host.

use std::fs::{self, File};
use std::io;

use lib_model::KernelRecord;
use lib_store::Context;

use crate::error::io_error;
use crate::{BOOT_MODULES, KernelError, vmlinux};

const PLAN9: &str = "9pnet_virtio";
const VIRTIOFS: &str = "virtiofs";

/// What a kernel has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShareDrivers {
    /// 9P over virtio.
    pub plan9: bool,
    /// FUSE over virtio.
    pub virtiofs: bool,
}

/// Looks among the modules that were imported, and only when they have neither, through the kernel itself.
///
/// # Errors
/// When the kernel's files cannot be read.
pub fn share_drivers(
    context: &Context,
    kernel: &KernelRecord,
) -> Result<ShareDrivers, KernelError> {
    let directory = context.kernel(&kernel.id).join(BOOT_MODULES);
    let mut found = ShareDrivers::default();
    match fs::read_dir(&directory) {
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(io_error("read", &directory))?.file_name();
                match module(&name.to_string_lossy()) {
                    PLAN9 => found.plan9 = true,
                    VIRTIOFS => found.virtiofs = true,
                    _ => {}
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("read", &directory)(error)),
    }
    if found == ShareDrivers::default() {
        let path = crate::vmlinux(context, kernel);
        let file = File::open(&path).map_err(io_error("read", &path))?;
        let names = vmlinux::drivers(file, &[PLAN9, VIRTIOFS]).map_err(io_error("read", &path))?;
        found = ShareDrivers {
            plan9: names.contains(PLAN9),
            virtiofs: names.contains(VIRTIOFS),
        };
    }
    Ok(found)
}

/// `9pnet_virtio` of `12-9pnet_virtio.ko.xz`.
fn module(file: &str) -> &str {
    let name = file.split_once('-').map_or(file, |(_, name)| name);
    name.split('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_known_by_their_names() {
        for (file, name) in [
            ("12-9pnet_virtio.ko", PLAN9),
            ("003-virtiofs.ko.xz", VIRTIOFS),
            ("1-9p.ko", "9p"),
        ] {
            assert_eq!(module(file), name);
        }
    }
}
