//! A guest that attacks whoever exports from it: with its files, and with what its agent says.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_wire::agent::{Opened, Started, kind};
use banger_wire::frame;
use lib_ws::{Limits, Mode, Prepare, Target, WsError};

use crate::rig::{Rig, repository, sh};

/// Without git in the guest, whatever git is run is the host's.
fn files_only(rig: &Rig, source: &std::path::Path) -> Prepare {
    Prepare {
        mode: Mode::WorktreeOnly,
        ..rig.request(source)
    }
}

#[test]
fn nothing_of_the_guests_git_directory_is_run_or_read() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a.txt; echo b > b.txt");
    let request = files_only(&rig, &source);
    rig.prepare(&request).unwrap();
    let guest = rig.guest();
    let mark = rig.path("executed");
    let touch = format!("touch {}", mark.display());
    sh(
        &guest,
        "git init -q; git -c user.name=x -c user.email=x@x commit -q --allow-empty -m x",
    );
    for (key, value) in [
        ("core.fsmonitor", touch.clone()),
        ("core.sshCommand", touch.clone()),
        ("core.pager", touch.clone()),
        ("core.editor", touch.clone()),
        ("core.hooksPath", "hooks".into()),
        ("filter.evil.clean", touch.clone()),
        ("filter.evil.smudge", touch.clone()),
        ("filter.evil.process", touch.clone()),
        ("diff.evil.textconv", touch.clone()),
        ("diff.evil.command", touch.clone()),
        ("diff.external", touch.clone()),
        ("merge.evil.driver", touch.clone()),
        ("gpg.program", touch.clone()),
        ("core.alternateRefsCommand", touch.clone()),
        ("uploadpack.packObjectsHook", touch.clone()),
    ] {
        sh(&guest, &format!("git config {key} '{value}'"));
    }
    sh(
        &guest,
        &format!(
            "echo '* filter=evil diff=evil merge=evil' > .gitattributes; echo changed > a.txt; mkdir -p hooks .git/hooks; \
             for h in post-checkout pre-commit reference-transaction post-index-change; do \
               printf '#!/bin/sh\\n{touch}\\n' > hooks/$h; cp hooks/$h .git/hooks/$h; chmod 755 hooks/$h .git/hooks/$h; done; \
             echo /etc > .git/objects/info/alternates; printf '[core]\\n\\tfsmonitor = {touch}\\n' > .gitconfig"
        ),
    );
    rig.review().unwrap();
    rig.apply(&Target::Patch(Some(rig.path("p")))).unwrap();
    rig.apply(&Target::Bundle(rig.path("b"))).unwrap();
    rig.apply(&Target::Branch("out".into())).unwrap();
    rig.apply(&Target::Worktree).unwrap();
    assert!(!mark.exists(), "the host ran what the guest had configured");
    let names = sh(&source, "git ls-tree -r --name-only out");
    assert!(!names.contains(".git/"), "{names}");
    assert!(!source.join(".git/hooks/pre-commit").exists());

    // In the place of the directory: a file or a link that lead elsewhere.
    for script in [
        format!(
            "rm -rf .git; echo 'gitdir: {}/.git' > .git",
            source.display()
        ),
        format!("rm -rf .git; ln -s {}/.git .git", source.display()),
    ] {
        sh(&guest, &script);
        let before = sh(&source, "git rev-parse HEAD; git config --list --local");
        rig.review().unwrap();
        assert_eq!(
            sh(&source, "git rev-parse HEAD; git config --list --local"),
            before
        );
    }
    assert!(!mark.exists());
}

#[test]
fn names_and_links_that_lead_out_are_refused_or_marked() {
    let mut rig = Rig::new();
    let source = repository(&rig, "mkdir d; echo a > d/a");
    let request = files_only(&rig, &source);
    rig.prepare(&request).unwrap();
    let guest = rig.guest();
    sh(
        &guest,
        "mkdir .GIT git~1 x; echo evil > .GIT/config; echo evil > git~1/config; mkdir x/.Git; echo e > x/.Git/hooks; \
         git init -q nested; echo n > nested/n; mkfifo pipe; ln -s ../../.. up; ln -s /etc abs; rm -r d; ln -s /etc d; \
         echo fine > \"$(printf 'a\\nb')\"",
    );
    let review = rig.review().unwrap();
    assert_eq!(review.refused.len(), 3, "{:?}", review.refused);
    assert_eq!(
        review.record.left_out.len(),
        5,
        "{:?}",
        review.record.left_out
    );
    let paths: Vec<&str> = review
        .changes
        .iter()
        .map(|change| change.path.as_str())
        .collect();
    assert_eq!(paths, ["a\\nb", "abs", "d", "d/a", "up"]);
    rig.apply(&Target::Branch("out".into())).unwrap();
    sh(&source, "git fsck --strict --no-dangling");
    assert_eq!(
        sh(&source, "git ls-tree --name-only -z out")
            .split('\0')
            .count(),
        5
    );
}

#[test]
fn commits_that_git_would_not_make_are_refused() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    let guest = rig.guest();
    let before = sh(&source, "git count-objects; git for-each-ref");
    // A tree with `.git` in it, and one with `..`.
    for name in [".git", "..", ".GIT"] {
        sh(
            &guest,
            &format!(
                "blob=$(echo evil | git hash-object -w --stdin); \
                 tree=$(printf '100644 {name}\\0%b' \"$(echo $blob | sed 's/../\\\\x&/g')\" | git hash-object -t tree -w --stdin --literally); \
                 git update-ref refs/heads/main $(git commit-tree -p main -m evil $tree)"
            ),
        );
        let error = rig.review().unwrap_err();
        assert!(matches!(error, WsError::Refused(_)), "{name}: {error}");
        sh(&guest, "git update-ref refs/heads/main main~1");
    }
    // HEAD that is no commit, and one that leads nowhere.
    sh(
        &guest,
        "git update-ref --no-deref HEAD $(git rev-parse main^{commit}); git hash-object -w a | xargs -I{} sh -c 'echo {} > .git/HEAD'",
    );
    assert!(rig.review().is_ok_and(|review| review.record.commits == 0));
    assert_eq!(sh(&source, "git count-objects; git for-each-ref"), before);
}

#[test]
fn what_is_too_much_is_not_taken() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    let guest = rig.guest();
    sh(
        &guest,
        "truncate -s 100G sparse; head -c 200000 /dev/urandom > big",
    );
    let few = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let error = rig.review_within(few).unwrap_err();
    assert!(matches!(error, WsError::Limit { .. }), "{error}");
    sh(
        &guest,
        "rm sparse; for i in 1 2 3 4 5 6 7 8; do head -c 300000 /dev/urandom > big; git add -A; git commit -qm $i; done",
    );
    let error = rig.review_within(few).unwrap_err();
    assert!(error.to_string().contains("bytes of commits"), "{error}");
    sh(
        &guest,
        "git reset -q --hard HEAD~8; mkdir many; cd many; touch $(seq 500)",
    );
    let few = Limits {
        entries: 100,
        ..Limits::default()
    };
    let error = rig.review_within(few).unwrap_err();
    assert!(error.to_string().contains("more than 100 files"), "{error}");
    // An ignored directory is never entered.
    fs::write(guest.join(".gitignore"), "many/\n").unwrap();
    assert_eq!(rig.review_within(few).unwrap().record.files, 1);
    // Rules that nobody can have written are none, and are not read.
    sh(
        &guest,
        "rm -r many; truncate -s 2T .gitignore; echo o > x.o",
    );
    let error = rig.review_within(few).unwrap_err();
    assert!(matches!(error, WsError::Limit { .. }), "{error}");
    sh(
        &guest,
        "rm .gitignore; mkdir d; truncate -s 2T d/.gitignore; echo 'd/.*' > .gitignore",
    );
    let review = rig.review_within(few).unwrap();
    assert_eq!(review.record.files, 2, "{:?}", review.changes);
}

#[test]
fn what_few_bytes_stand_for_is_counted() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    let guest = rig.guest();
    let few = Limits {
        entries: 1000,
        ..Limits::default()
    };
    // Five trees that are a hundred thousand paths, in a commit and never in a file.
    sh(
        &guest,
        r#"blob=$(echo x | git hash-object -w --stdin)
           tree=$(for i in $(seq 10); do printf "100644 blob $blob\t$i\n"; done | git mktree)
           for level in 1 2 3 4; do tree=$(for i in $(seq 10); do printf "040000 tree $tree\t$i\n"; done | git mktree); done
           git update-ref HEAD $(git commit-tree -p HEAD -m bomb $tree)"#,
    );
    let error = rig.review_within(few).unwrap_err();
    assert!(
        error.to_string().contains("more than 1000 paths"),
        "{error}"
    );
    let hint = lib_model::Diagnose::hint(&error).unwrap();
    assert!(hint.contains("git reset"), "{hint}");
    sh(
        &guest,
        r#"git update-ref HEAD HEAD~1
           for i in $(seq 1001); do
               printf 'commit refs/heads/main\ncommitter c <c@example.org> 1 +0000\ndata 0\n'
               [ $i != 1 ] || printf 'from refs/heads/main^0\n'
           done | git fast-import --quiet"#,
    );
    let error = rig.review_within(few).unwrap_err();
    assert!(error.to_string().contains("1000 commits"), "{error}");
    sh(&guest, "git update-ref HEAD HEAD~1001");
    assert!(rig.review_within(few).unwrap().is_empty());

    // All paths are held at once, and so is what the rules of what is ignored become.
    sh(
        &guest,
        r#"name=$(printf '%0250d' 0); p=.; for i in $(seq 15); do p=$p/$name; done
           mkdir -p $p; for i in $(seq 100); do : > $p/$i; done"#,
    );
    let error = rig.review_within(few).unwrap_err();
    assert!(error.to_string().contains("bytes of paths"), "{error}");
    sh(
        &guest,
        "rm -r 0*; for i in $(seq 9); do mkdir d$i; head -c 1000000 /dev/zero | tr '\\0' '#' > d$i/.gitignore; done",
    );
    let error = rig.review_within(few).unwrap_err();
    assert!(error.to_string().contains("8 MiB of .gitignore"), "{error}");
    sh(&guest, "rm -r d*; seq 100000 > .gitignore");
    let error = rig.review_within(few).unwrap_err();
    assert!(error.to_string().contains("100000 lines"), "{error}");
    sh(&guest, "rm .gitignore");
    assert!(rig.review_within(few).unwrap().is_empty());
}

#[test]
fn nothing_is_written_behind_a_link_of_the_hosts() {
    let mut rig = Rig::new();
    // What is ignored here does not go in, so the guest can have a directory in its place.
    let source = repository(&rig, "echo /out > .gitignore; echo a > a");
    sh(&source, "mkdir ../elsewhere; ln -s ../elsewhere out");
    let request = files_only(&rig, &source);
    rig.prepare(&request).unwrap();
    sh(
        &rig.guest(),
        "echo b > a; echo > .gitignore; mkdir out; echo evil > out/evil",
    );
    assert_eq!(rig.review().unwrap().record.files, 3);
    let error = rig.apply(&Target::Worktree).unwrap_err();
    assert!(
        matches!(&error, WsError::Unfit { words, .. } if words.contains("out/evil")),
        "{error}"
    );
    assert!(!rig.path("elsewhere/evil").exists());
    assert_eq!(fs::read_to_string(source.join("a")).unwrap(), "a\n");
}

#[test]
fn a_tree_that_does_not_come_to_rest_is_an_error() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a; echo b > b");
    let request = files_only(&rig, &source);
    rig.prepare(&request).unwrap();
    let (stop, guest) = (Arc::new(AtomicBool::new(false)), rig.guest());
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            for number in 0u64.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                fs::write(guest.join("a"), number.to_string()).unwrap();
                fs::write(guest.join("b"), number.to_string()).unwrap();
            }
        }
    });
    // Between two of its writes it may be at rest for once.
    let mut results = (0..20).map(|_| rig.review().map(drop));
    let error = results.find_map(Result::err);
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    let error = error.unwrap();
    assert!(matches!(error, WsError::Unstable { .. }), "{error}");
    assert_eq!(rig.review().unwrap().record.files, 2);
}

/// An agent that opens the workspace and then says what the test says.
fn liar(
    answers: impl Fn(&mut UnixStream, u8, &[u8]) + Send + 'static,
) -> impl FnOnce(UnixListener) {
    move |listener| {
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                stream.write_all(b"OK 1\n").unwrap();
                let _call = frame::read(&mut reader).unwrap();
                let started = serde_json::to_vec(&Started { pid: 1 }).unwrap();
                frame::write(&mut stream, kind::STARTED, &started).unwrap();
                let opened = Opened {
                    path: b"/ws".to_vec(),
                    empty: true,
                };
                let opened = serde_json::to_vec(&opened).unwrap();
                frame::write(&mut stream, kind::REPLY, &opened).unwrap();
                while let Ok(Some(request)) = frame::read(&mut reader) {
                    answers(&mut stream, request.kind, &request.payload);
                }
            }
        });
    }
}

/// One listed file, as the agent would say it.
fn listed(name: &[u8], size: u64) -> Vec<u8> {
    let mut out = (name.len() as u16).to_le_bytes().to_vec();
    for word in [0o100_644u32, 0, 0, 0, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    for word in [7, size, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(name);
    out
}

const LISTED: u8 = 96;
const NEXT: [u8; 2] = u16::MAX.to_le_bytes();
const MISSING: [u8; 2] = (u16::MAX - 1).to_le_bytes();

fn listing(stream: &mut UnixStream, entries: &[Vec<u8>]) {
    let bytes = [&NEXT[..], &entries.concat()].concat();
    let _ = frame::write(stream, LISTED, &bytes);
    let _ = frame::write(stream, kind::REPLY, &[0; 8]);
}

/// What a review of an unborn workspace says when the agent answers like this.
fn against(answers: impl Fn(&mut UnixStream, u8, &[u8]) + Send + 'static) -> WsError {
    let idle = Command::new("/bin/sleep").arg("600").spawn().unwrap();
    // `prepare` of an empty repository asks nothing.
    let mut rig = Rig::with(idle, liar(answers));
    sh(rig.base.path(), "git init -q src");
    let request = Prepare {
        path: Some("/ws".into()),
        ..files_only(&rig, &rig.path("src"))
    };
    rig.prepare(&request).unwrap();
    let few = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    rig.review_within(few).unwrap_err()
}

#[test]
fn an_agent_that_lies_is_found_out() {
    // Names that lead out.
    for name in [&b".."[..], b"a/b", b"/etc/passwd", b"a\0b", b""] {
        let name = name.to_vec();
        let error = against(move |stream, _, _| listing(stream, &[listed(&name, 1)]));
        let text = format!(
            "{error}: {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        );
        assert!(text.contains("no name of a file"), "{text}");
    }
    // The same name twice; more directories than were asked for; an endless listing.
    let error = against(|stream, _, _| listing(stream, &[listed(b"a", 1), listed(b"a", 2)]));
    assert!(format!("{error:?}").contains("twice"), "{error:?}");
    let error = against(|stream, _, _| {
        let _ = frame::write(stream, LISTED, &[NEXT, NEXT].concat());
    });
    assert!(
        format!("{error:?}").contains("more directories"),
        "{error:?}"
    );
    // A directory that cannot be read, again and again; parts with nothing in them.
    let error = against(|stream, _, _| {
        let _ = frame::write(stream, LISTED, &[NEXT, MISSING, MISSING].concat());
    });
    assert!(format!("{error:?}").contains("cannot be read"), "{error:?}");
    let error = against(|stream, _, _| while frame::write(stream, LISTED, &[]).is_ok() {});
    assert!(format!("{error:?}").contains("an empty part"), "{error:?}");
    let error = against(|stream, _, _| {
        let _ = frame::write(stream, LISTED, &NEXT);
        for number in 0u64.. {
            let name = format!("f{number}");
            if frame::write(stream, LISTED, &listed(name.as_bytes(), 1)).is_err() {
                return;
            }
        }
    });
    assert!(
        error.to_string().contains("more than 1000 files"),
        "{error}"
    );
}

/// What it says after it got the files can be as long, too.
#[test]
fn a_listing_that_does_not_end_ends_a_copy() {
    let idle = Command::new("/bin/sleep").arg("600").spawn().unwrap();
    let placing = AtomicBool::new(false);
    let mut rig = Rig::with(
        idle,
        liar(move |stream, what, _| match what {
            PLACE => placing.store(true, Ordering::SeqCst),
            TREE_DONE => {
                placing.store(false, Ordering::SeqCst);
                let _ = frame::write(stream, kind::REPLY, &[0; 8]);
            }
            LIST if !placing.load(Ordering::SeqCst) => {
                let many = listed(b"x", 1).repeat(1000);
                let _ = frame::write(stream, LISTED, &NEXT);
                while frame::write(stream, LISTED, &many).is_ok() {}
            }
            _ => {}
        }),
    );
    let source = repository(&rig, "echo a > a");
    let request = Prepare {
        path: Some("/ws".into()),
        ..files_only(&rig, &source)
    };
    let error = rig.prepare(&request).unwrap_err();
    assert!(format!("{error:?}").contains("does not end"), "{error:?}");
    assert!(rig.row().prepared_ms.is_none());
}

fn file_entry(name: banger_tree::Name, says: u64) -> banger_tree::Entry {
    banger_tree::Entry {
        name,
        kind: banger_tree::Kind::File { size: says },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
    }
}

/// An entry of a tree, and pieces of content.
fn tree_file(
    stream: &mut UnixStream,
    name: &[u8],
    says: u64,
    pieces: impl Iterator<Item = Vec<u8>>,
) {
    let Ok(name) = banger_tree::Name::try_from(name) else {
        return;
    };
    let mut writer = banger_tree::Writer::new(stream);
    let _ = writer.entry(&file_entry(name, says));
    for piece in pieces {
        if writer.data(&piece).is_err() {
            return;
        }
    }
    let _ = writer.end().and_then(|()| writer.done());
}

const LIST: u8 = 1;
const PLACE: u8 = 3;
const TREE_DONE: u8 = 5;

#[test]
fn sizes_that_are_lies_are_found_out() {
    let file = |says: u64, gives: u64, name: &'static [u8]| {
        against(move |stream, kind, _| match kind {
            LIST => listing(stream, &[listed(b"a", says)]),
            _ => {
                let pieces = (0..gives).map(|_| vec![b'x'; 1000]);
                tree_file(stream, name, says, pieces);
            }
        })
    };
    let error = file(10, 1, b"a");
    assert!(error.to_string().contains("longer than"), "longer: {error}");
    // It comes short each time: never a half of it.
    let error = file(2000, 1, b"a");
    assert!(
        matches!(error, WsError::Unstable { .. }),
        "shorter: {error}"
    );
    let error = file(u64::MAX, 1, b"a");
    assert!(matches!(error, WsError::Limit { .. }), "huge: {error}");
    let error = file(u64::MAX / 2, u64::MAX, b"a");
    assert!(matches!(error, WsError::Limit { .. }), "endless: {error}");
    // Pieces with nothing in them, and excuses, without an end.
    for (begin, nothing, words) in [
        (true, [2, 0, 0, 0, 0], "empty piece"),
        (false, [6, 0, 0, 0, 0], "entries"),
    ] {
        let error = against(move |stream, what, _| match what {
            LIST => listing(stream, &[listed(b"a", 10)]),
            _ => {
                if begin {
                    let name = banger_tree::Name::try_from(&b"a"[..]).unwrap();
                    let mut writer = banger_tree::Writer::new(&mut *stream);
                    writer.entry(&file_entry(name, 10)).unwrap();
                    writer.flush().unwrap();
                }
                while stream.write_all(&nothing.repeat(1000)).is_ok() {}
            }
        });
        assert!(format!("{error:?}").contains(words), "{error:?}");
    }
    let error = file(1000, 1, b"other");
    assert!(
        error.to_string().contains("not asked for"),
        "another: {error}"
    );
}
