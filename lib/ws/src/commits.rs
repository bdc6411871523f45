//! The commits that were made in the guest, as objects in the scratch repository. A few bytes of a pack can stand for
//! any number of paths, so that what git makes of them is counted while it comes.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use lib_guest::Error;

use crate::error::{Result, WsError};
use crate::git::Scratch;
use crate::guest_git::{GuestGit, Output, said};
use crate::request::Limits;
use crate::walk::{AVERAGE_PATH, LONGEST_PATH};

/// The longest object that git may hold in memory while it takes commits, in bytes; files from 1 MiB on are not held.
const LONGEST_OBJECT: u64 = 512 << 20;
/// So often a path may be touched on average, when as many are as may be.
const TOUCHES: u64 = 16;

/// The commits that were made in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Commits {
    /// The last of them.
    pub(crate) tip: Option<String>,
    /// How many.
    pub(crate) count: u64,
    /// Paths that they touch.
    pub(crate) touched: HashSet<Vec<u8>>,
    /// Why there are commits that are not kept.
    pub(crate) lost: Option<String>,
}

/// Gets the commits that were made on top of `base`, through `index-pack` (git-index-pack(1)) with its checks.
///
/// # Errors
/// [`WsError::Git`] when objects are refused, [`WsError::Limit`] when there are too many; those of the
/// connection.
pub(crate) fn collect(
    scratch: &Scratch,
    guest: &GuestGit<'_>,
    base: Option<&str>,
    format: &str,
    limits: Limits,
) -> Result<Commits> {
    let none = Commits::default();
    let tip = match guest.line(&["rev-parse", "-q", "--verify", "HEAD^{commit}"]) {
        Ok(tip) => tip,
        // Somebody removed it.
        Err(WsError::Guest(Error::Call(_))) => None,
        Err(error) => return Err(error),
    };
    let Some(tip) = tip else {
        return Ok(none);
    };
    if !is_object_name(&tip, format) {
        return Err(WsError::Refused("the guest's HEAD is no commit".into()));
    }
    if base == Some(&tip) {
        return Ok(none);
    }
    if !has(scratch, &tip)? {
        fetch_pack(scratch, guest, &tip, base, limits)?;
    }
    let kind = scratch.call("cat-file").args(["-t", &tip]).line()?;
    if kind != "commit" {
        return Err(WsError::Refused("the guest's HEAD is no commit".into()));
    }
    let exclude = base.map(|base| format!("^{base}"));
    if let Some(base) = base {
        let ancestor = scratch
            .call("merge-base")
            .args(["--is-ancestor", base, &tip]);
        if let Err(WsError::Git { .. }) = ancestor.output() {
            return Ok(Commits {
                lost: Some(
                    "the history in the VM was rewritten: its commits are not kept, their changes are"
                        .into(),
                ),
                ..none
            });
        }
    }
    let count = scratch
        .call("rev-list")
        .args(["--count", &tip])
        .args(exclude.iter())
        .line()?;
    let count = count.parse().unwrap_or(0);
    if count > limits.entries {
        return Err(too_much(format!("more than {} commits", limits.entries)));
    }
    let list = scratch
        .call("rev-list")
        .arg(&tip)
        .args(exclude.iter())
        .output()?;
    Ok(Commits {
        tip: Some(tip),
        count,
        touched: touched(scratch, &list, limits)?,
        lost: None,
    })
}

fn too_much(what: String) -> WsError {
    WsError::Limit {
        what,
        hint: "make fewer commits of it in the VM: git reset, then commit again",
    }
}

/// Paths that these commits touch.
fn touched(scratch: &Scratch, list: &[u8], limits: Limits) -> Result<HashSet<Vec<u8>>> {
    let mut running = scratch
        .call("diff-tree")
        .args(["--stdin", "-r", "-m", "-z", "--root"])
        .args(["--name-only", "--no-commit-id"])
        .spawn(Stdio::piped())?;
    let (stdin, stdout) = (running.stdin.take(), running.child.stdout.take());
    let failed = running.failed();
    let paths = std::thread::scope(|scope| {
        // One that ends early says why by its status.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(list)));
        // It goes with this, so that git does not go on when there is too much.
        let paths = stdout.map(|stdout| paths(BufReader::new(stdout), limits));
        paths.unwrap_or_else(|| Ok(Some(HashSet::new())))
    });
    let Some(paths) = paths.map_err(failed)? else {
        return Err(too_much(format!(
            "commits with more than {} paths, or longer ones",
            limits.entries
        )));
    };
    running.finish()?;
    Ok(paths)
}

/// Paths, each with a zero behind it; none when they are too many or too long.
fn paths(mut from: impl BufRead, limits: Limits) -> std::io::Result<Option<HashSet<Vec<u8>>>> {
    let mut found = HashSet::new();
    let (mut touches, mut bytes) = (0, 0);
    loop {
        let mut path = Vec::new();
        let longest = LONGEST_PATH as u64 + 1;
        if (&mut from).take(longest).read_until(0, &mut path)? == 0 {
            return Ok(Some(found));
        }
        if path.pop() != Some(0) {
            return Ok(None);
        }
        touches += 1;
        let length = path.len() as u64;
        if length > 0 && found.insert(path) {
            bytes += length;
        }
        if touches > limits.entries.saturating_mul(TOUCHES)
            || found.len() as u64 > limits.entries
            || bytes > limits.entries.saturating_mul(AVERAGE_PATH)
        {
            return Ok(None);
        }
    }
}

fn has(scratch: &Scratch, oid: &str) -> Result<bool> {
    match scratch.call("cat-file").args(["-e", oid]).output() {
        Ok(_) => Ok(true),
        Err(WsError::Git { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_object_name(text: &str, format: &str) -> bool {
    let length = if format == "sha256" { 64 } else { 40 };
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn fetch_pack(
    scratch: &Scratch,
    guest: &GuestGit<'_>,
    tip: &str,
    base: Option<&str>,
    limits: Limits,
) -> Result<()> {
    let exclude = base.map(|base| format!("^{base}\n")).unwrap_or_default();
    let wanted = said(&format!("{tip}\n{exclude}")).map_err(|source| WsError::Io {
        action: "make a pipe in",
        path: scratch.path.clone(),
        source,
    })?;
    let mut running = scratch
        .call("index-pack")
        .args(["--stdin", "--strict", "--fsck-objects", "--threads=1"])
        .arg(format!("--max-input-size={}", limits.bytes))
        // A tree or a commit is held whole, and says itself how long it is (git's wrapper.c, memory_limit_check).
        .env("GIT_ALLOC_LIMIT", LONGEST_OBJECT.to_string())
        .spawn(Stdio::null())?;
    let pipe = running.stdin.take().map(OwnedFd::from);
    let sink = pipe
        .as_ref()
        .map_or(Output::Null, |pipe| Output::Fd(pipe.as_fd()));
    let arguments = ["pack-objects", "--revs", "--stdout", "-q"];
    let ended = guest.run(&arguments, Some(wanted.as_fd()), sink);
    drop(pipe);
    let indexed = running.finish();
    match (ended?, indexed) {
        (_, Err(WsError::Git { words, .. })) if words.contains("maximum allowed size") => {
            Err(WsError::Limit {
                what: format!("more than {} bytes of commits", limits.bytes),
                hint: "banger-ws export --max-size SIZE …   (or diff)",
            })
        }
        (_, Err(WsError::Git { words, .. })) if words.contains("over limit") => {
            Err(too_much(format!(
                "commits with an object of more than {} MiB",
                LONGEST_OBJECT >> 20
            )))
        }
        (_, Err(WsError::Git { words, .. })) => Err(WsError::Refused(format!(
            "commits of the VM that git does not accept: {words}"
        ))),
        (_, Err(error)) => Err(error),
        (ended, Ok(())) if ended.status != 0 => Err(WsError::Refused(format!(
            "git in the VM ended with status {}: {}",
            ended.status, ended.words
        ))),
        (_, Ok(())) => Ok(()),
    }
}
