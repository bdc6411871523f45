//! Unmounting in a process whose other threads start programs. Shared by the tests that mount.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::umount;

/// Unmounts what nobody uses any more.
///
/// A program that another thread starts has copies of all our descriptors between fork(2) and
/// execve(2), those of files on the mount too. So long umount(2) says EBUSY, and nothing tells when
/// that ends.
#[allow(unreachable_pub)]
pub fn unmount(directory: &Path) -> nix::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match umount(directory) {
            Err(Errno::EBUSY) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}
