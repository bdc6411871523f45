//! Servers of the host's directories (virtiofsd), each in a mount namespace of its own, and in a user
//! namespace where we are not root.
//!
//! There the directory is bound from a descriptor that was opened without following any link, so nobody
//! can put another in its place, and is read-only by the kernel's word. A server ends when the VMM's
//! connection to it closes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;

use banger_failpoint::point;
use banger_wire::monitor::{Launch, ShareServer, placeholder};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getegid, geteuid};

use crate::exec::{self, SpawnError};
use crate::lock::set_inheritable;
use crate::log::Log;
use crate::process;

/// The argument that selects the mode for a server.
pub(crate) const MODE: &str = "--exec-share";

const READ_ONLY: &str = "ro";
const WRITABLE: &str = "rw";

/// Why a directory is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    #[error("cannot make the socket for {}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot serve {}", path.display())]
    Server {
        path: PathBuf,
        #[source]
        source: SpawnError,
    },
}

/// The running servers; dropping them ends them.
#[derive(Debug, Default)]
pub(crate) struct Servers(Vec<(Child, PathBuf)>);

impl Servers {
    /// Those that have failed since the last look, in words; at the VMM's end they end well by themselves.
    pub(crate) fn failed(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        self.0.retain_mut(|(child, source)| match child.try_wait() {
            Ok(Some(status)) => {
                let source = source.display();
                if !status.success() {
                    words.push(format!("the server of {source} has ended ({status})"));
                }
                false
            }
            _ => true,
        });
        words
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            // One that has ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the servers of a VM; returns the VMM's connections to them.
pub(crate) fn start(launch: &Launch, log: &Log) -> Result<(Servers, Vec<UnixStream>), ShareError> {
    let mut servers = Servers::default();
    let mut connections = Vec::new();
    for (index, share) in launch.shares.iter().enumerate() {
        let path = launch.runtime.join(format!("share-{index}.sock"));
        let (listener, connection) = channel(&path).map_err(|source| ShareError::Socket {
            path: share.source.clone(),
            source,
        })?;
        let child = spawn(share, &launch.runtime, &listener, log);
        let child = child.map_err(|source| ShareError::Server {
            path: share.source.clone(),
            source,
        })?;
        servers.0.push((child, share.source.clone()));
        connections.push(connection);
    }
    Ok((servers, connections))
}

/// A listening socket that one has connected to, and that nobody can find any more.
fn channel(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    point("monitor.share")?;
    // Of a monitor that died in between.
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    let connection = UnixStream::connect(path);
    fs::remove_file(path)?;
    set_inheritable(&listener, true)?;
    Ok((listener, connection?))
}

fn spawn(
    share: &ShareServer,
    runtime: &Path,
    listener: &UnixListener,
    log: &Log,
) -> Result<Child, SpawnError> {
    let socket = listener.as_raw_fd().to_string();
    let directory = served(runtime);
    let directory = directory.to_string_lossy();
    let arguments: Vec<String> = share
        .arguments
        .iter()
        .map(|argument| {
            argument
                .replace(placeholder::SOCKET, &socket)
                .replace(placeholder::DIRECTORY, &directory)
        })
        .collect();
    let mode = if share.read_only { READ_ONLY } else { WRITABLE };
    let more = [
        OsString::from(mode),
        OsString::from(&socket),
        runtime.into(),
        share.source.clone().into(),
    ];
    exec::spawn(MODE, &more, &share.program, &arguments, log)
}

/// Where the directory is in the server's namespace.
fn served(runtime: &Path) -> PathBuf {
    runtime.join("share")
}

/// Becomes the server; `report` is a descriptor that must stay until then.
pub(crate) fn become_server(arguments: &[OsString], report: RawFd) -> io::Error {
    let [parent, mode, socket, runtime, source, program, rest @ ..] = arguments else {
        return io::Error::other("wrong arguments");
    };
    let Some(socket) = socket.to_str().and_then(|number| number.parse().ok()) else {
        return io::Error::other("wrong arguments");
    };
    match prepare(mode, &[socket, report], runtime.as_ref(), source.as_ref()) {
        // Last, because a change of credentials takes the signal of the parent's death away (prctl(2)).
        Ok(()) => exec::become_child(parent, program, rest),
        Err(error) => error,
    }
}

fn prepare(mode: &OsStr, keep: &[RawFd], runtime: &Path, source: &Path) -> io::Result<()> {
    // A tap of the VMM's may be among what we inherited.
    process::close_leaked_descriptors(keep)?;
    // An O_PATH descriptor for each file that the guest knows.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    enter_namespaces()?;
    // Only now: a mount of another namespace cannot be bound here (mount_namespaces(7)).
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let directory = openat2(AT_FDCWD.as_fd(), source, how)
        .map_err(while_("opening it without following a link"))?;
    bind(&directory, runtime, mode != WRITABLE)
}

/// For `map_err`: what was being done.
fn while_(what: &'static str) -> impl Fn(nix::Error) -> io::Error {
    move |error| {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("{what}: {}", error.desc()),
        )
    }
}

/// A mount namespace; who may not make one is root in a user namespace of their own first.
fn enter_namespaces() -> io::Result<()> {
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        let (user, group) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(while_(
            "making a user namespace (does this system let users have them?)",
        ))?;
        // user_namespaces(7), "Defining user and group ID mappings".
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(while_("making mounts private"))
}

/// Binds the directory, and what is mounted below it, to where the server looks.
fn bind(directory: &OwnedFd, runtime: &Path, read_only: bool) -> io::Result<()> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("mode=0700,size=64k");
    mount(Some("banger"), runtime, Some("tmpfs"), safe, options)
        .map_err(while_("mounting a place for it"))?;
    let target = served(runtime);
    fs::DirBuilder::new().mode(0o700).create(&target)?;
    let from = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(
        Some(from.as_str()),
        &target,
        None::<&str>,
        bind,
        None::<&str>,
    )
    .map_err(while_("binding it"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for mounted in below(&mounts, &target) {
        restrict(&mounted, read_only)?;
    }
    Ok(())
}

/// Flags of a mount that a user namespace cannot take away must be given again (mount_namespaces(7)).
fn restrict(mounted: &Path, read_only: bool) -> io::Result<()> {
    let now = statvfs(mounted)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(
        MsFlags::MS_RDONLY,
        read_only || now.contains(FsFlags::ST_RDONLY),
    );
    for (has, keeps) in [
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        flags.set(keeps, now.contains(has));
    }
    mount(None::<&str>, mounted, None::<&str>, flags, None::<&str>)
        .map_err(while_("making it read-only"))
}

/// Mount points at and below a directory, of the lines of proc_pid_mountinfo(5).
fn below(mounts: &str, directory: &Path) -> Vec<PathBuf> {
    let points = mounts
        .lines()
        .filter_map(|line| Some(PathBuf::from(unescaped(line.split(' ').nth(4)?))));
    points
        .filter(|point| point.starts_with(directory))
        .collect()
}

/// `\040` is a space.
fn unescaped(word: &str) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_found_by_whole_names() {
        let mounts = "20 1 8:1 / / rw - ext4 /dev/sda rw\n\
                      30 20 0:5 / /run/v/share ro,nosuid - tmpfs banger rw\n\
                      31 30 0:6 /a /run/v/share/with\\040space\\134 rw - ext4 /dev/sda rw\n\
                      32 20 0:7 / /run/v/shared rw - tmpfs x rw\n";
        assert_eq!(
            below(mounts, Path::new("/run/v/share")),
            [
                PathBuf::from("/run/v/share"),
                PathBuf::from("/run/v/share/with space\\")
            ]
        );
    }
}
