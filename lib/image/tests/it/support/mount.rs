//! What the kernel sees in an image.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::unmount::unmount;

/// A read-only loop mount; unmounted at the end.
pub(crate) struct Mount {
    directory: tempfile::TempDir,
}

impl Mount {
    /// Checks the image with e2fsck, then mounts it.
    pub(crate) fn new(image: &Path) -> Self {
        let check = Command::new("/usr/sbin/e2fsck")
            .arg("-fn")
            .arg(image)
            .output()
            .unwrap();
        assert!(
            check.status.success(),
            "{}",
            String::from_utf8_lossy(&check.stdout)
        );
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new("/usr/bin/mount")
            .args(["-t", "ext4", "-o", "loop,ro,noload"])
            .arg(image)
            .arg(directory.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Mount { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// One line for every file but `lost+found`: type, mode, owner, content or target, links.
    pub(crate) fn listing(&self) -> BTreeMap<String, String> {
        let mut listing = BTreeMap::new();
        self.walk(self.directory.path(), &mut listing);
        listing.remove("lost+found");
        listing
    }

    fn walk(&self, directory: &Path, listing: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(self.directory.path()).unwrap();
            listing.insert(name.to_string_lossy().into_owned(), describe(&path));
            if path.symlink_metadata().unwrap().is_dir() {
                self.walk(&path, listing);
            }
        }
    }
}

fn describe(path: &Path) -> String {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("-> {}", path.read_link().unwrap().display())
    } else if kind.is_char_device() {
        let device = metadata.rdev();
        format!(
            "char {}:{}",
            nix::libc::major(device),
            nix::libc::minor(device)
        )
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        let text = std::fs::read(path).unwrap();
        format!("{:?} x{}", String::from_utf8_lossy(&text), metadata.nlink())
    };
    let mode = metadata.mode() & 0o7777;
    let mut line = format!("{mode:04o} {}:{} {what}", metadata.uid(), metadata.gid());
    for name in xattr::list(path).unwrap() {
        let value = xattr::get(path, &name).unwrap().unwrap();
        line += &format!(" {}={value:02x?}", name.to_string_lossy());
    }
    line
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = unmount(self.directory.path());
        if !std::thread::panicking() {
            assert_eq!(done, Ok(()), "unmounted");
        }
    }
}

/// A small file system in memory; unmounted at the end.
pub(crate) struct Tmpfs {
    directory: tempfile::TempDir,
}

impl Tmpfs {
    pub(crate) fn new(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let status = Command::new("/usr/bin/mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(status.success());
        Tmpfs { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let done = unmount(self.directory.path());
        if !std::thread::panicking() {
            assert_eq!(done, Ok(()), "unmounted");
        }
    }
}
