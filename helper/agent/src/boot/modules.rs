//! Loads the kernel modules of the initramfs, in the order in which they are listed.

use std::fs::File;
use std::io;

use banger_wire::config::{GuestConfig, MODULES_PATH, Root, ShareKind, on_demand};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::{BootError, While};

/// Loads every listed module; without a list everything is built in.
///
/// # Errors
/// A module is missing or the kernel refuses it; what is loaded already is fine.
pub(super) fn load(config: &GuestConfig) -> Result<(), BootError> {
    let list = match std::fs::read_to_string(MODULES_PATH) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BootError(format!("reading {MODULES_PATH}: {error}"))),
    };
    for path in paths(&list).filter(|path| wanted(path, config)) {
        let file = File::open(path).context(|| format!("opening kernel module {path}"))?;
        match finit_module(&file, c"", flags(path)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => {
                return Err(BootError(format!("loading kernel module {path}: {error}")));
            }
        }
    }
    Ok(())
}

fn wanted(path: &str, config: &GuestConfig) -> bool {
    let name = name(path);
    let snapshot = matches!(config.root, Root::Snapshot { .. });
    let shared = |kind| config.shares.iter().any(|share| share.kind == kind);
    let on_demand: [(&[&str], bool); 3] = [
        (&on_demand::SNAPSHOT, snapshot),
        (&on_demand::PLAN9, shared(ShareKind::Plan9)),
        (&on_demand::VIRTIOFS, shared(ShareKind::Virtiofs)),
    ];
    let allows = |(names, demanded): &(&[&str], bool)| *demanded || !names.contains(&&*name);
    on_demand.iter().all(allows)
}

/// `dm_mod` of `/banger/modules/007-dm-mod.ko.xz`: a number for the order, dashes as the file has them.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let file = file.trim_start_matches(|c: char| c.is_ascii_digit());
    let stem = file.trim_start_matches('-').split('.').next();
    stem.unwrap_or_default().replace('-', "_")
}

fn paths(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The kernel unpacks modules itself when told to (Linux 5.17, CONFIG_MODULE_DECOMPRESS).
fn flags(path: &str) -> ModuleInitFlags {
    const COMPRESSED_FILE: u32 = 4;
    if path.ends_with(".ko") {
        ModuleInitFlags::empty()
    } else {
        ModuleInitFlags::from_bits_retain(COMPRESSED_FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_with_underscores() {
        for (path, expected) in [
            ("/banger/modules/007-dm-mod.ko.xz", "dm_mod"),
            ("/banger/modules/012-9pnet_virtio.ko", "9pnet_virtio"),
            ("virtio_blk.ko", "virtio_blk"),
        ] {
            assert_eq!(name(path), expected);
        }
    }

    #[test]
    fn lists_may_have_blanks_and_comments() {
        let list = "# virtio\n/lib/a.ko\n\n  /lib/b.ko.xz \n";
        assert_eq!(
            paths(list).collect::<Vec<_>>(),
            ["/lib/a.ko", "/lib/b.ko.xz"]
        );
        assert!(flags("/lib/a.ko").is_empty());
        assert!(!flags("/lib/b.ko.xz").is_empty());
    }
}
