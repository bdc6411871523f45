//! Directories that no other local user can prepare, enter or replace.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use banger_failpoint::point;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};

use crate::StoreError;

/// Makes a directory with mode 0700, or proves that the one there is ours, private, and no link.
///
/// Its parent must exist. Checked through a descriptor opened with `O_NOFOLLOW`, so that what was
/// checked is what is there.
///
/// # Errors
/// [`StoreError::UnsafeDirectory`] when it is a link, another user's, or open to others.
pub fn private_dir(path: &Path) -> Result<(), StoreError> {
    match point("directory.create").and_then(|()| DirBuilder::new().mode(0o700).create(path)) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(source) => {
            return Err(StoreError::Io {
                action: "create",
                path: path.to_owned(),
                source,
            });
        }
    }
    let unsafe_because = |reason: String| StoreError::UnsafeDirectory {
        path: path.to_owned(),
        reason,
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let directory = open(path, flags, Mode::empty())
        .map_err(|error| unsafe_because(format!("it is not a directory of ours ({error})")))?;
    let status = fstat(&directory).map_err(|error| unsafe_because(error.to_string()))?;
    let me = nix::unistd::geteuid();
    if status.st_uid != me.as_raw() {
        return Err(unsafe_because(format!(
            "it belongs to uid {}, not to {me}",
            status.st_uid
        )));
    }
    if status.st_mode & 0o077 != 0 {
        return Err(unsafe_because(format!(
            "its mode is {:04o}, others may enter it (0700 is expected)",
            status.st_mode & 0o7777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_and_open_directories_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("d");
        private_dir(&dir).unwrap();
        private_dir(&dir).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o7777, 0o700);

        symlink(&dir, base.path().join("link")).unwrap();
        assert!(matches!(
            private_dir(&base.path().join("link")),
            Err(StoreError::UnsafeDirectory { .. })
        ));
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        let error = private_dir(&dir).unwrap_err().to_string();
        assert!(error.contains("0755"), "{error}");
    }
}
