//! Where external programs are. Found on PATH by hand, so that the error can say where it looked.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::VmError;

/// The absolute path of a program on `PATH`.
///
/// # Errors
/// [`VmError::NoVmm`] with the directories that were searched.
pub(crate) fn find(program: &'static str) -> Result<PathBuf, VmError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| VmError::NoVmm {
            program,
            searched: path.to_string_lossy().into_owned(),
        })
}

/// A helper of ours that must be there.
///
/// # Errors
/// [`VmError::NoHelper`].
pub(crate) fn helper(path: PathBuf) -> Result<PathBuf, VmError> {
    if is_executable(&path) {
        Ok(path)
    } else {
        Err(VmError::NoHelper { path })
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
