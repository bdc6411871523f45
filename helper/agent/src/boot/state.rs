//! Directories of container engines, which cannot lie on an overlay: their own overlays refuse one as
//! their upper layer. They are bound from the data disk, and begin as the image has them.
//!
//! Runs inside the image's root.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::seed;
use crate::console;

const PARENT: &str = "/var/lib";
const NAMES: [&str; 3] = ["docker", "containerd", "containers"];

/// Binds them; an image without /var/lib has no such engine. One that fails is on the console: the
/// guest is worse without, not broken.
pub(super) fn bind(data: &File) {
    if !Path::new(PARENT).is_dir() {
        return;
    }
    let state = PathBuf::from(format!("/proc/self/fd/{}/state", data.as_raw_fd()));
    for name in NAMES {
        if let Err(error) = bind_one(&state, name) {
            console::say(&format!("{PARENT}/{name} stays on the overlay: {error}"));
        }
    }
}

fn bind_one(state: &Path, name: &str) -> io::Result<()> {
    let (source, target) = (state.join(name), Path::new(PARENT).join(name));
    if !source.is_dir() {
        prepare(state, &source, &target, name)?;
    }
    make_directory(&target)?;
    let bind = MsFlags::MS_BIND;
    Ok(mount(
        Some(&source),
        &target,
        None::<&str>,
        bind,
        None::<&str>,
    )?)
}

/// The rename makes it whole: a boot that ends in the middle begins anew.
fn prepare(state: &Path, source: &Path, target: &Path, name: &str) -> io::Result<()> {
    make_directory(state)?;
    let new = state.join(format!(".{name}.new"));
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // As Docker makes its own (0710 later, by itself).
    DirBuilder::new().mode(0o711).create(&new)?;
    if target.is_dir() {
        seed::copy(target, &new)?;
    }
    fs::rename(new, source)
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
