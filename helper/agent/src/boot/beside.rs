//! The fork of process 1: the image's init takes its place, and the agent goes on as its child.
//!
//! The child executes itself again under a name that begins with `@`, by which systemd knows what to
//! spare at shutdown (systemd's "Storage Daemons for the Root File System"). What it needs is passed
//! by descriptors, because paths of the initramfs are gone.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};

use banger_wire::config::GuestConfig;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;

use super::root::Hidden;
use super::{BootError, While};
use crate::sys;

/// The agent's name in process listings.
const NAME: &str = "@banger-agent";
/// What process 1 starts with.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "TERM=linux",
];

/// What the child finds behind its descriptors.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) config: GuestConfig,
    pub(super) hidden: Hidden,
}

/// Makes the image's init process 1 and leaves the agent beside it. Returns only when that fails; then
/// this is still process 1, and the agent is alone.
///
/// # Errors
/// Why.
pub(super) fn hand_over(
    config: &GuestConfig,
    hidden: &Hidden,
    argv: &[String],
) -> Result<Infallible, BootError> {
    let passing = || "passing the configuration on".to_owned();
    let json = serde_json::to_vec(config).context(passing)?;
    let mut memory = memfd_create(c"banger-config", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .context(passing)?;
    memory
        .write_all(&json)
        .and_then(|()| memory.rewind())
        .context(passing)?;
    let (executed, executing) = pipe2(OFlag::O_CLOEXEC).context(passing)?;
    let passed = [
        memory.as_raw_fd(),
        hidden.initramfs.as_raw_fd(),
        executed.as_raw_fd(),
    ];
    let mut agent = vec![NAME.to_owned(), super::BESIDE.to_owned()];
    agent.extend(passed.iter().map(ToString::to_string));
    let child =
        sys::fork_self(&agent, &passed).context(|| "starting the agent beside init".to_owned())?;
    drop(executed);
    // The pipe closes when the execution succeeds.
    let Err(error) = sys::become_init(argv, &ENVIRONMENT);
    let _ = nix::unistd::write(&executing, b"!");
    drop(executing);
    let _ = waitpid(child, None);
    let program = argv.first().map_or("", String::as_str);
    Err(BootError(format!(
        "executing the image's init {program}: {error}"
    )))
}

/// Takes over what [`hand_over`] passed, once init runs. `None`: it could not be executed, which process
/// 1 reports.
///
/// # Errors
/// The descriptors are not what it passes.
pub(super) fn take_over(numbers: [&str; 3]) -> Result<Option<Passed>, BootError> {
    let take = |number: &str| {
        let what = || format!("descriptor {number}");
        let parsed: RawFd = number.parse().context(what)?;
        sys::inherited_descriptor(parsed)
            .map(File::from)
            .context(what)
    };
    let [config, initramfs, mut executed] =
        [take(numbers[0])?, take(numbers[1])?, take(numbers[2])?];
    let mut word = Vec::new();
    executed
        .read_to_end(&mut word)
        .context(|| "waiting for init".to_owned())?;
    if !word.is_empty() {
        return Ok(None);
    }
    let config =
        serde_json::from_reader(config).context(|| "reading the configuration".to_owned())?;
    Ok(Some(Passed {
        config,
        hidden: Hidden::beside(initramfs)?,
    }))
}
