//! Copies between host and guest: a thread with the user's rights moves the files, the agent only their bytes.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_tree::{Limits, Reader, Receive, Send, TreeError, Writer};
use banger_wire::agent::{CallError, CallErrorKind, Copied, Copy, Direction, kind};
use banger_wire::config::Process;
use banger_wire::frame::{self, Decoder};

use crate::caller::Caller;
use crate::worker::{Input, Output, Workers};

/// Under way to a copy, in bytes. A little less than the port's driver has room for, which is 128 pages: the host would
/// have to be told of each page that is free again.
const WINDOW: u32 = 112 * 4096;

/// Lets a worker copy, and passes bytes on until it has ended.
///
/// # Errors
/// Why it could not begin.
pub(crate) async fn run(
    what: Copy,
    defaults: &Process,
    workers: &Workers,
    caller: &Caller,
    mut decoder: Decoder,
) -> Result<(), CallError> {
    let user = what.user.clone().unwrap_or_else(|| defaults.user.clone());
    let early = decoder.take_rest();
    if what.direction == Direction::In {
        caller.stream().widen(WINDOW);
    }
    let work = move |mut input: Input, mut output: Output| {
        // What fails is told through the stream; when that fails, nobody is left to be told.
        let _ = match what.direction {
            Direction::In => receive(&what, &mut input, &mut output),
            Direction::Out => send(&what, &mut output),
        };
    };
    workers.run(&user, caller, early, work).await
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

fn send(what: &Copy, output: &mut impl Write) -> io::Result<()> {
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
