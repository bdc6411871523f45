//! Processes of the agent's own program that work as a user, and whose bytes it passes on.
//!
//! So the kernel enforces the user's rights, and a file system that hangs hangs nobody else.

use banger_wire::agent::{CallError, CallErrorKind, Started, kind};
use banger_wire::config::Process;
use banger_wire::frame::{self, Decoder};
use tokio::io::Interest;

use crate::caller::Caller;
use crate::channel::Gone;
use crate::process::Processes;
use crate::{spawn, splice, sys};

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
