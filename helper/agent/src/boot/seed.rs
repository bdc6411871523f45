//! Copies a directory of the image to another file system, with owners, modes, times and attributes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, lchown, symlink};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use crate::sys;

/// Copies what is in `from` into the directory `to`, which is given `from`'s own owner and mode. What is
/// mounted below is left out; names of one file become files of their own.
///
/// # Errors
/// The first entry that cannot be copied, by its path.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let device = fs::metadata(from)?.dev();
    directory(from, to, device)
}

fn directory(from: &Path, to: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        one(&from, &to, device).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", from.display()))
        })?;
    }
    // After its content, whose making changes the time.
    attributes(from, to)
}

fn one(from: &Path, to: &Path, device: u64) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        DirBuilder::new().mode(0o700).create(to)?;
        if metadata.dev() != device {
            return attributes(from, to);
        }
        return directory(from, to, device);
    }
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        let mut input = File::open(from)?;
        let mut output = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)?;
        io::copy(&mut input, &mut output)?;
    } else if kind.is_socket() {
        // Nobody listens to a copy.
        return Ok(());
    } else {
        let kind = if kind.is_fifo() {
            SFlag::S_IFIFO
        } else if kind.is_char_device() {
            SFlag::S_IFCHR
        } else {
            SFlag::S_IFBLK
        };
        mknod(to, kind, Mode::S_IRWXU, metadata.rdev())?;
    }
    attributes(from, to)
}

/// Gives `to` the owner, mode, attributes and times of `from`.
///
/// # Errors
/// Those of the system calls.
pub(super) fn give(from: &Path, to: &Path) -> io::Result<()> {
    attributes(from, to)
}

fn attributes(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    sys::copy_xattrs(from, to)?;
    if !metadata.file_type().is_symlink() {
        // After the owner: its change clears the bits for set-user-id.
        fs::set_permissions(to, metadata.permissions())?;
    }
    let time = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
    let accessed = time(metadata.atime(), metadata.atime_nsec());
    let modified = time(metadata.mtime(), metadata.mtime_nsec());
    utimensat(
        AT_FDCWD,
        to,
        &accessed,
        &modified,
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_copy_has_all_kinds_of_entries_with_their_modes_and_times() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("deep/file"), "text").unwrap();
        fs::set_permissions(from.join("deep/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("nowhere", from.join("link")).unwrap();
        nix::unistd::mkfifo(&from.join("pipe"), Mode::S_IRUSR).unwrap();
        let old = TimeSpec::new(7, 9);
        for path in ["link", "deep/er", "deep"] {
            let path = from.join(path);
            utimensat(AT_FDCWD, &path, &old, &old, UtimensatFlags::NoFollowSymlink).unwrap();
        }
        fs::set_permissions(&from, fs::Permissions::from_mode(0o751)).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("deep/file")).unwrap(), "text");
        let mode = |path: &str| fs::symlink_metadata(to.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode("deep/file"), mode(""), mode("pipe")),
            (0o4711, 0o751, 0o400)
        );
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("nowhere")
        );
        assert!(
            fs::symlink_metadata(to.join("pipe"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
        for path in ["link", "deep/er", "deep"] {
            let metadata = fs::symlink_metadata(to.join(path)).unwrap();
            assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (7, 9), "{path}");
        }
        let error = copy(&from, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
