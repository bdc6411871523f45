//! Watching directories through a real agent: what is told, limits, old agents, hostile ones.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

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
