//! Which program becomes process 1: the image's own init, or nobody but the agent.
//!
//! Runs inside the image's root, so links of the image lead nowhere else.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_wire::config::Init;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::BootError;
use crate::{console, image_file};

/// Where distributions have it.
const PLACES: [&str; 4] = [
    "/sbin/init",
    "/usr/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
];
/// Inits that need nothing but themselves to run a machine.
const COMPLETE: [&str; 6] = [
    "systemd",
    "openrc-init",
    "runit-init",
    "s6-linux-init",
    "dinit",
    "finit",
];

/// The socket of systemctl for root, bound when the manager runs its loop.
const SYSTEMD: &str = "/run/systemd";
const SYSTEMD_SOCKET: &str = "private";
/// Emulated, on a busy machine.
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(60);

/// What [`Init`] comes to in this image: the arguments of process 1, or none for the agent.
///
/// # Errors
/// A program that was asked for is not in the image.
pub(super) fn choose(init: &Init) -> Result<Option<Vec<String>>, BootError> {
    match init {
        Init::Agent => Ok(None),
        Init::Detect => Ok(detect(Path::new("/")).map(|path| vec![path])),
        Init::Program { argv } => {
            let program = argv.first().map_or("", String::as_str);
            if program.starts_with('/') && is_executable(Path::new(program)) {
                return Ok(Some(argv.clone()));
            }
            Err(BootError(format!(
                "the image has no program {program} to run as init; with --init none the agent is"
            )))
        }
    }
}

/// True for what understands systemd's signals and reads its drop-ins, or will become that: the second stage of a
/// NixOS system executes the systemd that lies beside it.
pub(super) fn is_systemd(program: &str) -> bool {
    let name = fs::canonicalize(program).unwrap_or_else(|_| PathBuf::from(program));
    let beside = name.with_file_name("systemd").join("lib/systemd/systemd");
    name.file_name() == Some(OsStr::new("systemd")) || beside.is_file()
}

/// Waits until systemd takes commands, so that the first exec can give it some; other inits are not asked
/// for anything. A machine whose systemd does not get there is served all the same.
pub(super) fn wait_until_it_listens(init: &Init) {
    let becomes = match init {
        Init::Program { argv } => argv.first().is_some_and(|program| is_systemd(program)),
        Init::Agent | Init::Detect => false,
    };
    if (becomes || is_systemd("/proc/1/exe"))
        && let Err(error) = appears(Path::new(SYSTEMD), SYSTEMD_SOCKET, SYSTEMD_PATIENCE)
    {
        console::say(&format!("waiting for systemd to listen: {error}"));
    }
}

/// Waits for a name in a directory below /run.
fn appears(directory: &Path, name: &str, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    // Its mode and owner are as systemd makes it.
    fs::create_dir_all(directory)?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(
        directory,
        AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO,
    )?;
    while !directory.join(name).exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        if left.is_zero() || poll(&mut polled, timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        inotify.read_events()?;
    }
    Ok(())
}

fn detect(root: &Path) -> Option<String> {
    let place = PLACES
        .into_iter()
        .find(|place| is_executable(&inside(root, place)))?;
    let real = fs::canonicalize(inside(root, place)).ok()?;
    let name = real.file_name()?.to_str()?;
    let usable = match name {
        name if COMPLETE.contains(&name) => true,
        // Every image with busybox has it as /sbin/init, and most of those have nothing for it to start.
        "busybox" => match inittab(root) {
            Some(text) => starts_something(root, &text),
            None => is_executable(&inside(root, "/etc/init.d/rcS")),
        },
        "init" => inittab(root).is_some_and(|text| starts_something(root, &text)),
        _ => false,
    };
    if !usable {
        let real = real.display();
        console::say(&format!(
            "not started: {place} ({real} has nothing to run here; --init image starts it all the same)"
        ));
    }
    usable.then(|| place.to_owned())
}

fn inittab(root: &Path) -> Option<String> {
    image_file::read(&inside(root, "/etc/inittab")).ok()
}

/// A `sysinit` line whose program is there (inittab(5); busybox has the same form).
fn starts_something(root: &Path, inittab: &str) -> bool {
    let commands = inittab.lines().filter_map(|line| {
        let mut fields = line.trim().splitn(4, ':').skip(2);
        (fields.next()? == "sysinit").then(|| fields.next())?
    });
    commands
        .filter_map(|command| command.split_whitespace().next())
        .any(|program| program.starts_with('/') && is_executable(&inside(root, program)))
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// `name`: a program; `name>target`: a link; `name=text`: a file.
    fn detected(entries: &[&str]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for entry in entries {
            let name = entry.split(['>', '=']).next().unwrap();
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if let Some((_, target)) = entry.split_once('>') {
                symlink(target, path).unwrap();
            } else {
                let text = entry.split_once('=').map_or("", |(_, text)| text);
                fs::write(&path, text).unwrap();
                let mode = if entry.contains('=') { 0o644 } else { 0o755 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        detect(root.path())
    }

    #[test]
    fn an_init_is_taken_when_it_can_run_a_machine() {
        let found = Some("/sbin/init".to_owned());
        let inittab =
            "etc/inittab=# of Alpine\n::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty\n";
        let cases: [(&[&str], Option<String>); 8] = [
            (&["bin/sh"], None),
            (
                &["sbin/init>../lib/systemd/systemd", "lib/systemd/systemd"],
                found.clone(),
            ),
            (
                &["lib/systemd/systemd"],
                Some("/lib/systemd/systemd".to_owned()),
            ),
            (&["sbin/init>../bin/busybox", "bin/busybox"], None),
            // An Alpine container has busybox's init and an inittab, but not what that names.
            (&["sbin/init>../bin/busybox", "bin/busybox", inittab], None),
            (
                &[
                    "sbin/init>../bin/busybox",
                    "bin/busybox",
                    inittab,
                    "sbin/openrc",
                ],
                found.clone(),
            ),
            (
                &["sbin/init>../bin/busybox", "bin/busybox", "etc/init.d/rcS"],
                found,
            ),
            (&["sbin/init>../usr/bin/tini", "usr/bin/tini"], None),
        ];
        for (entries, expected) in cases {
            assert_eq!(detected(entries), expected, "{entries:?}");
        }
    }

    #[test]
    fn what_appears_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("new");
        let error = appears(&directory, "socket", Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            scope.spawn(|| fs::write(directory.join("socket"), "").unwrap());
            appears(&directory, "socket", Duration::from_secs(60)).unwrap();
        });
    }

    #[test]
    fn a_program_that_was_asked_for_must_be_there() {
        let wanted = |program: &str| Init::Program {
            argv: vec![program.to_owned()],
        };
        assert_eq!(
            choose(&wanted("/bin/sh")).unwrap(),
            Some(vec!["/bin/sh".to_owned()])
        );
        for missing in ["/bin/no-such-init", "sh", ""] {
            let error = choose(&wanted(missing)).unwrap_err().to_string();
            assert!(error.contains("--init none"), "{error}");
        }
        assert_eq!(choose(&Init::Agent).unwrap(), None);
    }
}
