//! Where callers come in: sockets that systemd passes, or one of our own.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, chown, geteuid};

use crate::sys;

/// The first number of a passed descriptor (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// The sockets that systemd passes to this process.
pub(crate) fn activated() -> io::Result<Vec<UnixListener>> {
    let variable = |name| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = variable("LISTEN_FDS").and_then(|count| count.parse::<RawFd>().ok());
    let Some(count @ 1..=16) = count.filter(|_| ours) else {
        let message =
            "no socket was passed (LISTEN_FDS); start it with --listen PATH, or by systemd";
        return Err(io::Error::other(message));
    };
    (FIRST..FIRST + count)
        .map(|number| {
            let descriptor = sys::passed_descriptor(number)?;
            if !getsockopt(&descriptor.as_fd(), AcceptConn)? {
                let message = format!("the passed descriptor {number} is no listening socket");
                return Err(io::Error::other(message));
            }
            Ok(UnixListener::from(descriptor))
        })
        .collect()
}

/// A socket of our own, for us and one group, in a directory where nobody else could have made it.
pub(crate) fn bind(path: &Path, gid: Option<u32>) -> io::Result<UnixListener> {
    let refused = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let parent = path
        .parent()
        .ok_or_else(|| refused("it has no directory".into()))?;
    let directory = fs::symlink_metadata(parent)
        .map_err(|error| refused(format!("its directory cannot be used: {error}")))?;
    if !directory.is_dir() || directory.uid() != geteuid().as_raw() || directory.mode() & 0o022 != 0
    {
        return Err(refused(
            "its directory must be ours, and writable by us alone".into(),
        ));
    }
    match fs::symlink_metadata(path) {
        // Of one that was killed: the lock on the state says that nobody serves it.
        Ok(old) if old.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(refused("there is a file, which is no socket".into())),
        Err(_) => {}
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(|error| refused(error.to_string()))?;
    if let Some(gid) = gid {
        chown(path, None, Some(Gid::from_raw(gid)))?;
        fs::set_permissions(path, Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_made_only_where_nobody_else_can_write() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("s");
        drop(bind(&path, None).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // What a killed one left is replaced; a file is not.
        drop(bind(&path, Some(nix::unistd::getegid().as_raw())).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "x").unwrap();
        assert!(bind(&path, None).is_err());
        fs::set_permissions(base.path(), Permissions::from_mode(0o777)).unwrap();
        let error = bind(&base.path().join("t"), None).unwrap_err().to_string();
        assert!(error.contains("writable by us alone"), "{error}");
    }
}
