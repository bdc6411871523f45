//! The files of one VM: where they are, how they are replaced, how they are removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use banger_wire::monitor::{Launch, file};
use nix::libc;

/// Paths of one VM.
#[derive(Debug)]
pub(crate) struct Paths {
    pub(crate) alive_lock: PathBuf,
    pub(crate) console_log: PathBuf,
    pub(crate) console_times: PathBuf,
    pub(crate) vmm_log: PathBuf,
    pub(crate) handles: PathBuf,
    pub(crate) exit_record: PathBuf,
    pub(crate) statistics: PathBuf,
    pub(crate) agent_socket: PathBuf,
    pub(crate) control_socket: PathBuf,
}

impl Paths {
    pub(crate) fn new(launch: &Launch) -> Self {
        Paths {
            alive_lock: launch.directory.join(file::ALIVE_LOCK),
            console_log: launch.directory.join(file::CONSOLE_LOG),
            console_times: launch.directory.join(file::CONSOLE_TIMES),
            vmm_log: launch.directory.join(file::VMM_LOG),
            handles: launch.directory.join(file::HANDLES),
            exit_record: launch.directory.join(file::EXIT_RECORD),
            statistics: launch.directory.join(file::STATISTICS),
            agent_socket: launch.runtime.join(file::AGENT_SOCKET),
            control_socket: launch.runtime.join(file::CONTROL_SOCKET),
        }
    }

    /// Removes what says that the VM runs; every removal is tried.
    pub(crate) fn remove_runtime(&self) -> Vec<FileError> {
        remove_all(&[&self.control_socket, &self.agent_socket, &self.handles])
    }

    /// Undoes a launch.
    pub(crate) fn remove_launch(&self) -> Vec<FileError> {
        let mut errors = self.remove_runtime();
        errors.extend(remove_all(&[
            &self.console_log,
            &self.console_times,
            &self.vmm_log,
        ]));
        errors
    }
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", path.display())]
pub(crate) struct FileError {
    pub(crate) verb: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl FileError {
    /// For `map_err`.
    pub(crate) fn new(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError { verb, path, source }
    }
}

fn remove_all(paths: &[&Path]) -> Vec<FileError> {
    let failed = |path: &&Path| remove(path).err();
    paths.iter().filter_map(failed).collect()
}

/// Removes a file that may be missing.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match point("monitor.remove").and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::new("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The name under which a replacement is prepared; one writer, the holder of the lock.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// A new empty file for the owner only; what was there is replaced, links are not followed.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    point("monitor.create")?;
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .and_then(|file| file.set_len(0).map(|()| file))
}

/// Replaces a file in one step.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_temporary(path, content, false)?;
    rename(path).map_err(FileError::new("replace", path))
}

/// Replaces a file in one step that survives a power failure once this returns.
pub(crate) fn replace_durably(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_temporary(path, content, true)?;
    rename(path).map_err(FileError::new("replace", path))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    point("monitor.sync")
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(FileError::new("sync", directory))
}

fn rename(path: &Path) -> io::Result<()> {
    point("monitor.rename")?;
    fs::rename(temporary(path), path)
}

fn write_temporary(path: &Path, content: &[u8], sync: bool) -> Result<(), FileError> {
    let temporary = temporary(path);
    create(&temporary)
        .and_then(|mut file| {
            point("monitor.write")?;
            file.write_all(content)?;
            if sync { file.sync_all() } else { Ok(()) }
        })
        .map_err(FileError::new("write", &temporary))
}
