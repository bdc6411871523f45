//! Work on the files of a workspace: a process of the user's does it, the agent passes bytes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use banger_tree::session;
use banger_wire::agent::{CallError, CallErrorKind, Opened, Workspace, kind};
use banger_wire::config::Process;
use banger_wire::frame::{self, Decoder};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::caller::Caller;
use crate::process::Processes;
use crate::{account, helper};

/// The argument that selects the helper's mode.
pub(crate) const MODE: &str = "workspace";

/// Starts a helper and passes bytes on until it has ended.
///
/// # Errors
/// No such user; why it could not be started.
pub(crate) async fn run(
    mut what: Workspace,
    defaults: &Process,
    processes: &Processes,
    caller: &Caller,
    decoder: Decoder,
) -> Result<(), CallError> {
    if !what.path.starts_with(b"/") {
        let user = what.user.as_deref().unwrap_or(&defaults.user);
        let account = account::find(user).map_err(|message| CallError {
            kind: CallErrorKind::BadRequest,
            message,
        })?;
        let home = account.home.trim_end_matches('/');
        what.path = [home.as_bytes(), &what.path].join(&b'/');
    }
    let call = serde_json::to_vec(&what).unwrap_or_default();
    let user = what.user.as_deref();
    helper::pass(MODE, user, &call, defaults, processes, caller, decoder).await
}

/// The helper: standard input is the socket to the agent, so it can write there, too.
pub(crate) fn helper() -> ExitCode {
    match io::stdin().as_fd().try_clone_to_owned().and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(socket: OwnedFd) -> io::Result<()> {
    let mut input = File::from(socket.try_clone()?);
    let mut output = File::from(socket);
    let call = frame::read(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let what: Workspace = serde_json::from_slice(&call.payload)?;
    let path = Path::new(OsStr::from_bytes(&what.path));
    match open_root(path, what.create) {
        Ok((root, empty)) => {
            let opened = Opened {
                path: what.path,
                empty,
            };
            frame::write(&mut output, kind::REPLY, &serde_json::to_vec(&opened)?)?;
            session::serve(root.as_fd(), input, output).map_err(io::Error::other)
        }
        Err(error) => {
            let error = CallError {
                kind: match error.kind() {
                    io::ErrorKind::NotFound => CallErrorKind::NotFound,
                    _ => CallErrorKind::Failed,
                },
                message: format!("{}: {error}", path.display()),
            };
            frame::write(&mut output, kind::ERROR, &serde_json::to_vec(&error)?)
        }
    }
}

fn open_root(path: &Path, create: bool) -> io::Result<(OwnedFd, bool)> {
    if create {
        fs::create_dir_all(path)?;
    }
    let empty = fs::read_dir(path)?.next().is_none();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok((open(path, flags, Mode::empty())?, empty))
}

/// Puts a read-only view over a directory, or takes all of them away (mount(2), "Remounting").
///
/// # Errors
/// Why the kernel refuses.
pub(crate) fn protect(path: &[u8], readonly: bool) -> Result<(), CallError> {
    let failed = |errno: nix::errno::Errno| CallError {
        kind: CallErrorKind::Failed,
        message: format!(
            "the guest could not change how {} is mounted: {}",
            String::from_utf8_lossy(path),
            errno.desc()
        ),
    };
    // EINVAL: nothing is mounted there.
    while umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    if !readonly {
        return Ok(());
    }
    let none = None::<&[u8]>;
    mount(Some(path), path, none, MsFlags::MS_BIND, none).map_err(failed)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, path, none, flags, none).map_err(|errno| {
        // Better not at all than half.
        let _ = umount2(path, MntFlags::MNT_DETACH);
        failed(errno)
    })
}
