//! Watches a directory for the host: a process of the user's, like a copy's, that the kernel tells of
//! changes (inotify(7)). What comes together is told together, so a flood costs a few looks a second.

mod dirty;
mod tree;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use banger_wire::agent::{CallError, CallErrorKind, kind};
use banger_wire::config::Process;
use banger_wire::frame::{self, Decoder};
use banger_wire::watch::{CHANGES, Change, Changes, MOST_CHANGES, Watch};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::dirty::Dirty;
use self::tree::Tree;
use crate::caller::Caller;
use crate::helper;
use crate::process::Processes;

/// The argument that selects the helper's mode.
pub(crate) const MODE: &str = "watch";

/// What follows within this belongs together; programs write a file in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// But nobody waits longer than this for the first of it.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Of one frame; JSON writes a byte of a path in up to four.
const FRAME_BUDGET: usize = 768 * 1024;

/// Starts a helper for the watch and passes bytes on until it has ended.
///
/// # Errors
/// Why it could not be started.
pub(crate) async fn run(
    what: &Watch,
    defaults: &Process,
    processes: &Processes,
    caller: &Caller,
    decoder: Decoder,
) -> Result<(), CallError> {
    let call = serde_json::to_vec(what).unwrap_or_default();
    let user = what.user.as_deref();
    helper::pass(MODE, user, &call, defaults, processes, caller, decoder).await
}

/// The helper: standard input is the socket to the agent.
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
    let what: Watch = serde_json::from_slice(&call.payload)?;
    match watch(&what, &input, &mut output) {
        // Nobody is left to be told.
        Ok(()) | Err(Ended::Stream) => Ok(()),
        Err(Ended::Tree(message)) => {
            let error = CallError {
                kind: CallErrorKind::Failed,
                message,
            };
            frame::write(&mut output, kind::ERROR, &serde_json::to_vec(&error)?)
        }
    }
}

/// Why a watch is over.
enum Ended {
    /// The caller has hung up.
    Stream,
    /// For people.
    Tree(String),
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Ended::Stream
    }
}

fn watch(what: &Watch, input: &File, output: &mut File) -> Result<(), Ended> {
    let mut tree = Tree::new(what).map_err(Ended::Tree)?;
    // The first frame says that from now on nothing is missed.
    send(output, &tree, Vec::new(), false)?;
    loop {
        if !wait(&tree, Some(input), None)? {
            return Ok(());
        }
        let mut dirty = Dirty::default();
        let begun = Instant::now();
        loop {
            tree.take_events(&mut dirty).map_err(Ended::Tree)?;
            let left = LONGEST_WAIT.saturating_sub(begun.elapsed());
            if left.is_zero() || !wait(&tree, None, Some(QUIET.min(left)))? {
                break;
            }
        }
        let rescanned = dirty.everything();
        let changes = tree.changes(&dirty).map_err(Ended::Tree)?;
        if rescanned || !changes.is_empty() {
            send(output, &tree, changes, rescanned)?;
        }
    }
}

/// Waits for events; false when there are none in time, or the caller has hung up.
fn wait(tree: &Tree, input: Option<&File>, limit: Option<Duration>) -> io::Result<bool> {
    let timeout = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
    });
    loop {
        let mut polled = vec![PollFd::new(tree.descriptor(), PollFlags::POLLIN)];
        polled.extend(input.map(|input| PollFd::new(input.as_fd(), PollFlags::POLLIN)));
        match poll(&mut polled, timeout) {
            Ok(0) => return Ok(false),
            // A caller has nothing to say but its end.
            Ok(_) if polled.get(1).is_some_and(|fd| fd.any() == Some(true)) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn send(output: &mut File, tree: &Tree, changes: Vec<Change>, rescanned: bool) -> io::Result<()> {
    let directories = u32::try_from(tree.directories()).unwrap_or(u32::MAX);
    let mut rest = changes.into_iter().peekable();
    let mut rescanned = rescanned;
    loop {
        let mut frame = Changes {
            changes: Vec::new(),
            rescanned: std::mem::take(&mut rescanned),
            directories,
        };
        let mut size = 0;
        while let Some(change) = rest.next_if(|next| {
            size += 4 * (next.path.len() + next.from.as_ref().map_or(0, Vec::len)) + 256;
            frame.changes.is_empty() || (size < FRAME_BUDGET && frame.changes.len() < MOST_CHANGES)
        }) {
            frame.changes.push(change);
        }
        frame::write(output, CHANGES, &serde_json::to_vec(&frame)?)?;
        if rest.peek().is_none() {
            return Ok(());
        }
    }
}
