//! Reads and writes files of the image from inside its own root.
//!
//! The image is hostile: a path may be a link, a pipe that blocks for ever, or a huge file. After
//! the agent's chroot links resolve inside the image; the rest is checked here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

/// Longer files are cut here, in bytes.
const LIMIT: u64 = 4 << 20;

/// Reads a regular file, at most its first 4 MiB; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// Those of open(2) and read(2); `InvalidInput` for anything but a regular file.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let file = open(OpenOptions::new().read(true), path)?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Replaces a regular file's content, or makes it. A link to nowhere is replaced by a file.
///
/// # Errors
/// Those of open(2) and write(2); `InvalidInput` when something else is there.
pub(crate) fn write(path: &Path, content: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o644);
    let mut file = match open(&mut options, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            std::fs::remove_file(path)?;
            open(&mut options, path)?
        }
        other => other?,
    };
    let before = file.metadata()?.len();
    file.write_all(content.as_bytes())?;
    let after = content.len() as u64;
    // Not emptied first: that ext4 would write it to the disk when it is closed (its documentation, auto_da_alloc).
    if before > after {
        file.set_len(after)?;
    }
    Ok(())
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_does_not_block_and_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(write(&path, "x").is_err());
    }

    #[test]
    fn a_dangling_link_becomes_a_file_and_a_live_one_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (link, target) = (
            directory.path().join("link"),
            directory.path().join("target"),
        );
        std::os::unix::fs::symlink("missing/file", &link).unwrap();
        write(&link, "one").unwrap();
        assert!(!link.is_symlink());
        std::fs::remove_file(&link).unwrap();
        std::fs::write(&target, "a longer text").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        write(&link, "two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(read(&target).unwrap(), "two");
    }
}
