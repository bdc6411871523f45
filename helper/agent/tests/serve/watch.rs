//! Watching directories through a real agent: what is told, limits, old agents, hostile ones.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use lib_guest::{CallErrorKind, Changes, Error, Watch, What};

use crate::harness::Harness;

const PATIENCE: Duration = Duration::from_secs(120);

fn what(root: &Path, entries: u32) -> Watch {
    Watch {
        path: root.as_os_str().as_bytes().to_vec(),
        user: None,
        entries,
        skip: Vec::new(),
    }
}

/// Watches in a thread; ends with the receiver, at the next change.
fn watch(
    harness: &Harness,
    what: Watch,
) -> (
    Receiver<Changes>,
    std::thread::JoinHandle<lib_guest::Result<()>>,
) {
    let guest = harness.guest();
    let (tell, told) = channel();
    let watching = std::thread::spawn(move || {
        guest.watch(what, None, &mut |changes| match tell.send(changes) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
    });
    (told, watching)
}

#[test]
fn a_change_is_told_when_it_happens() {
    let harness = Harness::new();
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("src")).unwrap();
    fs::write(base.path().join("src/main.rs"), "fn main() {}").unwrap();
    let (told, watching) = watch(&harness, what(base.path(), 10_000));
    let first = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((first.changes.len(), first.directories), (0, 2));

    fs::write(base.path().join("src/main.rs"), "fn main() { todo!() }").unwrap();
    let next = told.recv_timeout(PATIENCE).unwrap();
    let change = &next.changes[0];
    assert_eq!(
        (&change.path[..], change.what),
        (&b"src/main.rs"[..], What::Modified)
    );
    assert_eq!(change.size, (12, 21));

    fs::set_permissions(
        base.path().join("src/main.rs"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let next = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(next.changes[0].what, What::Mode);
    assert_eq!(next.changes[0].mode.map(|(_, now)| now), Some(0o755));

    // A burst comes as few frames, with the files of directories that are new meanwhile.
    for number in 0..1200 {
        let directory = base.path().join(format!("new/{}", number % 7));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(number.to_string()), "").unwrap();
    }
    let (mut seen, mut frames) = (0, 0);
    while seen < 1200 {
        let next = told.recv_timeout(PATIENCE).unwrap();
        seen += next
            .changes
            .iter()
            .filter(|change| change.what == What::Added)
            .count();
        frames += 1;
    }
    assert_eq!(seen, 1200);
    assert!(frames < 100, "{frames}");
    drop(told);
    fs::write(base.path().join("last"), "").unwrap();
    watching.join().unwrap().unwrap();
}

/// Waits until a process sleeps in poll(2) or epoll_wait(2); whether it does so without a time limit: then no
/// system call follows until something happens.
fn sleeps_for_ever(pid: u32) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // `running` while it is in no system call.
        let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        let words: Vec<u64> = text
            .split_whitespace()
            .map_while(|word| match word.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => word.parse().ok(),
            })
            .collect();
        match words[..] {
            // poll; epoll_wait and epoll_pwait, of arm64 too: limits are -1. ppoll of both: there is none.
            [7, _, _, limit, ..] | [232 | 281 | 22, _, _, _, limit, ..] => {
                return limit as u32 as i32 == -1;
            }
            [271 | 73, _, _, limit, ..] => return limit == 0,
            _ => std::thread::yield_now(),
        }
    }
    panic!("{pid} does not come to rest");
}

/// When a directory was last read; the kernel notes it when it was changed since (mount(8), relatime).
fn read_at(directory: &Path) -> SystemTime {
    fs::metadata(directory).unwrap().accessed().unwrap()
}

#[test]
fn a_quiet_tree_is_not_looked_at_and_of_a_busy_one_only_what_changed() {
    let harness = Harness::new();
    let base = tempfile::tempdir().unwrap();
    let directories: Vec<_> = (0..200)
        .map(|number| base.path().join(format!("{}/{number}", number % 10)))
        .collect();
    for directory in &directories {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
    }
    let (told, watching) = watch(&harness, what(base.path(), 10_000));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().directories, 211);
    let idle = |what: &str| {
        let processes = harness.processes();
        assert_eq!(processes.len(), 2, "the agent and who watches");
        for pid in processes {
            assert!(sleeps_for_ever(pid), "{pid} has a time limit, {what}");
        }
    };
    idle("before anything happened");

    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let never_read = fs::FileTimes::new().set_accessed(long_ago);
    for directory in &directories {
        fs::File::open(directory)
            .unwrap()
            .set_times(never_read)
            .unwrap();
    }
    // Somewhere, again and again; each is told before the next.
    for directory in &directories[..20] {
        fs::write(directory.join("file"), "more").unwrap();
        let next = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(next.changes.len(), 1, "{:?}", next.changes);
    }
    idle("after changes");
    for directory in &directories {
        assert_eq!(read_at(directory), long_ago, "{}", directory.display());
    }
    // It would have been seen.
    fs::read_dir(&directories[0]).unwrap().for_each(drop);
    assert!(read_at(&directories[0]) > long_ago);
    drop(told);
    fs::write(base.path().join("last"), "").unwrap();
    watching.join().unwrap().unwrap();
}

#[test]
fn what_cannot_be_watched_is_said() {
    let harness = Harness::new();
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("a"), "").unwrap();
    fs::write(base.path().join("b"), "").unwrap();
    for (what, words) in [
        (what(base.path(), 1), "more than 1 files and directories"),
        (what(&base.path().join("none"), 1), "No such file"),
        (what(&base.path().join("a"), 1), "not a directory"),
    ] {
        let (_told, watching) = watch(&harness, what);
        match watching.join().unwrap().unwrap_err() {
            Error::Call(error) => {
                assert_eq!(error.kind, CallErrorKind::Failed);
                assert!(error.message.contains(words), "{error}");
            }
            other => panic!("{other}"),
        }
    }
    // The agent is as well as before.
    harness.guest().info().unwrap();
}

#[test]
fn the_end_of_the_directory_or_of_the_guest_ends_a_watch() {
    let mut harness = Harness::new();
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("root");
    fs::create_dir(&root).unwrap();
    let (told, watching) = watch(&harness, what(&root, 10));
    told.recv_timeout(PATIENCE).unwrap();
    fs::remove_dir(&root).unwrap();
    let error = watching.join().unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Call(call) if call.message.contains("is gone")),
        "{error}"
    );

    let (told, watching) = watch(&harness, what(base.path(), 10));
    told.recv_timeout(PATIENCE).unwrap();
    harness.kill();
    let error = watching.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::ConnectionLost), "{error}");
}

#[test]
fn a_watch_ends_when_the_user_wants_it() {
    let harness = Harness::new();
    let base = tempfile::tempdir().unwrap();
    let (asked, ask) = nix::unistd::pipe().unwrap();
    let guest = harness.guest();
    let what = what(base.path(), 10);
    let (begun, begins) = channel();
    let watching = std::thread::spawn(move || {
        use std::os::fd::AsFd;
        guest.watch(what, Some(asked.as_fd()), &mut |_| {
            begun.send(()).unwrap();
            ControlFlow::Continue(())
        })
    });
    begins.recv_timeout(PATIENCE).unwrap();
    drop(ask);
    let error = watching.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
}

#[test]
fn the_agent_says_who_a_user_is() {
    let harness = Harness::new();
    let root = harness.guest().user(Some("root")).unwrap();
    assert_eq!(root.uid, 0);
    assert!(root.home.starts_with('/'));
    let error = harness
        .guest()
        .user(Some("nobody-of-that-name"))
        .unwrap_err();
    assert!(
        matches!(&error, Error::Call(call) if call.kind == CallErrorKind::BadRequest),
        "{error}"
    );
}
