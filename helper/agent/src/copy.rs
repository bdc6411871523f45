//! Copies between host and guest: a process of the user's moves the files, the agent only their bytes.
//!
//! So the kernel enforces the user's rights, and a file system that hangs hangs nobody else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use banger_tree::{Limits, Reader, Receive, Send, TreeError, Writer};
use banger_wire::agent::{CallError, CallErrorKind, Copied, Copy, Direction, Started, kind};
use banger_wire::config::Process;
use banger_wire::frame::{self, Decoder};
use tokio::io::Interest;

use crate::caller::Caller;
use crate::channel::Gone;
use crate::process::Processes;
use crate::{spawn, splice, sys};

/// The argument that selects the helper's mode.
pub(crate) const MODE: &str = "copy";

/// Starts a helper for the copy and passes bytes on until it has ended.
///
/// # Errors
/// Why it could not be started.
pub(crate) async fn run(
    what: &Copy,
    defaults: &Process,
    processes: &Processes,
    caller: &Caller,
    decoder: Decoder,
) -> Result<(), CallError> {
    let call = serde_json::to_vec(what).unwrap_or_default();
    pass(
        MODE,
        what.user.as_deref(),
        &call,
        defaults,
        processes,
        caller,
        decoder,
    )
    .await
}

/// Starts a helper as a user, tells it the call, and passes bytes on until it has ended.
///
/// # Errors
/// Why it could not be started.
pub(crate) async fn pass(
    mode: &str,
    user: Option<&str>,
    call: &[u8],
    defaults: &Process,
    processes: &Processes,
    caller: &Caller,
    mut decoder: Decoder,
) -> Result<(), CallError> {
    let (pid, socket) = spawn::spawn_self(mode, user, defaults)?;
    let ended = processes.watch(pid);
    let socket =
        sys::watch(socket, Interest::READABLE | Interest::WRITABLE).map_err(|error| CallError {
            kind: CallErrorKind::Failed,
            message: format!("the guest could not watch a socket: {error}"),
        })?;
    let mut early = Vec::new();
    frame::encode(&mut early, kind::CALL, call);
    early.extend(decoder.take_rest());
    let passed = async {
        caller
            .send_json(kind::STARTED, &Started { pid })
            .await
            .map_err(|Gone| splice::Broken::Stream)?;
        let up = async {
            // When the helper has heard enough, what it says is still to be passed on.
            match splice::to_socket(caller.stream(), &socket, early).await {
                Err(splice::Broken::Stream) => Err(splice::Broken::Stream),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            gone = up => gone,
            ended = splice::from_socket(caller.stream(), &socket) => ended,
        }
    };
    let _: Result<(), splice::Broken> = passed.await;
    // Its end of file makes the helper remove what is half made.
    drop(socket);
    ended.wait().await;
    Ok(())
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
    let what: Copy = serde_json::from_slice(&call.payload)?;
    // Each piece that comes wakes us. An emulated processor loses its caches when it changes processes, so the agent
    // gathers as much as it can before that.
    let _ = sys::never_preempt();
    match what.direction {
        Direction::In => receive(&what, &mut input, &mut output),
        Direction::Out => send(&what, output),
    }
}

fn receive(what: &Copy, input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let target = what.paths.first().map(Vec::as_slice).unwrap_or_default();
    let options = Receive {
        archive: what.archive,
        several: what.several,
        past_cache: true,
    };
    // The host is trusted with the guest's disk.
    let mut reader = Reader::new(input, Limits::default());
    let target = Path::new(std::ffi::OsStr::from_bytes(target));
    match banger_tree::receive(&mut reader, target, &options, &mut |_| {}) {
        Ok(summary) => {
            let copied = Copied {
                entries: summary.entries,
                bytes: summary.bytes,
            };
            frame::write(output, kind::REPLY, &serde_json::to_vec(&copied)?)
        }
        // Nobody is left to be told.
        Err(TreeError::Stream(error)) => Err(error),
        Err(error) => {
            let error = CallError {
                kind: CallErrorKind::Failed,
                message: error.to_string(),
            };
            frame::write(output, kind::ERROR, &serde_json::to_vec(&error)?)
        }
    }
}

fn send(what: &Copy, output: File) -> io::Result<()> {
    let options = Send {
        archive: what.archive,
        follow: what.follow,
        past_cache: true,
        ..Send::default()
    };
    let path = |bytes| Path::new(std::ffi::OsStr::from_bytes(bytes));
    let paths: Vec<&Path> = what.paths.iter().map(|bytes| path(bytes)).collect();
    let mut writer = Writer::new(output);
    match banger_tree::send(&mut writer, &paths, options, &mut |_| {}) {
        Ok(_) => writer.done(),
        Err(TreeError::Stream(error)) => Err(error),
        Err(error) => writer.fail(&error.to_string()),
    }
}
