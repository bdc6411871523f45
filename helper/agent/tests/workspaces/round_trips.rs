//! prepare, change, export, apply on a clean clone: the clone is what the guest has.

use std::fs;
use std::io::Read;
use std::path::Path;

use lib_model::{ChangeStatus, Risk};
use lib_ws::Target;
use proptest::prelude::*;

use crate::rig::{Rig, clone_and_apply, repository, set_mode, sh, tree};

const ODD: &str = r#"
    mkdir -p -- d/deep 'with space' -dash ü
    echo one > d/one; echo two > d/deep/two; echo s > 'with space/a b'; echo u > ü/ö
    printf x > "$(printf 'new\nline')"; printf x > "$(printf 'tab\t')"; printf q > '"quoted"'
    printf 'b\\s' > 'back\slash'; printf x > "$(printf 'odd\377')"; printf x > ./-dash/--help
    ln -s d/one link; ln -s ../nowhere d/broken; printf '#!/bin/sh\n' > run; chmod 755 run
    printf 'a\0b\377\n' > binary; printf 'cr\r\nlf\n' > mixed; : > empty; printf 'no newline' > end
    printf 'ignored\n*.o\n' > .gitignore; seq 1 200 > numbers
"#;

#[test]
fn everything_that_changes_comes_out() {
    let mut rig = Rig::new();
    let source = repository(&rig, ODD);
    let request = rig.request(&source);
    let record = rig.prepare(&request).unwrap();
    assert!(record.git && record.ready && record.changed, "{record:?}");
    let guest = rig.guest();
    assert_eq!(tree(&guest), tree(&source));
    assert_eq!(
        sh(
            &guest,
            "git status --porcelain; git log --format=%s; git branch"
        ),
        "first\n* main\n"
    );

    sh(
        &guest,
        r#"
        echo more >> d/one; rm d/deep/two; git mv numbers renamed; chmod 755 end; chmod 644 run
        printf 'a\0c\n' > binary; ln -sf /etc/passwd link; rm empty; mkdir empty; echo in > empty/file
        printf y > "$(printf 'new\nline')"; printf 'cr\r\nlf\nlf\r\n' > mixed; printf new > ü/neu
        echo o > x.o; echo i > ignored; mkdir -p .github/workflows; echo ci > .github/workflows/x.yml
        git rm -q --cached d/broken; rm d/broken; echo file > d/broken
    "#,
    );
    let patch = rig.patch();
    let clone = clone_and_apply(&rig, &source, &patch);
    let mut expected = tree(&guest);
    expected.remove(&b"x.o"[..]);
    expected.remove(&b"ignored"[..]);
    assert_eq!(tree(&clone), expected);

    let review = rig.review().unwrap();
    let change = |path: &str| {
        review
            .changes
            .iter()
            .find(|change| change.path == path)
            .unwrap()
    };
    assert_eq!(change("renamed").status, ChangeStatus::Renamed);
    assert_eq!(change("renamed").from.as_deref(), Some("numbers"));
    assert_eq!(change("end").risks, [Risk::Executable]);
    assert_eq!(change("link").risks, [Risk::Symlink, Risk::SymlinkOut]);
    assert_eq!(change(".github/workflows/x.yml").risks, [Risk::Ci]);
    assert_eq!(change("d/broken").status, ChangeStatus::TypeChanged);
    assert_eq!(change("binary").added, None);
    assert_eq!(change("d/one").added, Some(1));
    // The hash is the patch's own.
    let sum = sh(rig.base.path(), "sha256sum out.patch");
    assert_eq!(review.record.hash, format!("sha256:{}", &sum[..64]));
}

#[test]
fn commits_of_the_guest_stay_commits() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a; mkdir d; echo b > d/b");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    sh(
        &rig.guest(),
        "echo 1 >> a; git commit -qam one; git mv d/b c; git commit -qm two; echo left > over; \
         printf '*.log\n' > .gitignore; git add .gitignore; git commit -qm three; echo l > x.log; git add -f x.log; git commit -qm four",
    );
    let review = rig.review().unwrap();
    assert_eq!((review.record.commits, review.record.files), (4, 5));
    rig.apply(&Target::Branch("try/it".into())).unwrap();
    assert_eq!(
        sh(&source, "git log --format=%s try/it"),
        format!(
            "Changes from dev:{}\nfour\nthree\ntwo\none\nfirst\n",
            rig.guest().display()
        )
    );
    // Nothing was checked out, and the source is as it was.
    assert_eq!(
        sh(&source, "git status --porcelain; git branch --show-current"),
        "main\n"
    );
    sh(&source, "git fsck --strict --no-dangling");
    let clone = rig.path("clone");
    sh(rig.base.path(), "git clone -q -b try/it src clone");
    assert_eq!(tree(&clone), tree(&rig.guest()));

    let bundle = rig.path("it.bundle");
    rig.apply(&Target::Bundle(bundle)).unwrap();
    sh(&source, "git fetch -q ../it.bundle main:from-bundle");
    assert_eq!(
        sh(&source, "git rev-parse try/it^ try/it^{tree}"),
        sh(&source, "git rev-parse from-bundle^ from-bundle^{tree}")
    );
    // A branch is advanced, and never rewound or changed under somebody's feet.
    rig.apply(&Target::Branch("main".into())).unwrap_err();
    sh(
        &source,
        "git branch other; git checkout -q other; echo x > x; git add x; git commit -qm x; git checkout -q main",
    );
    let error = rig.apply(&Target::Branch("other".into())).unwrap_err();
    assert!(error.to_string().contains("has commits"), "{error}");
    sh(&source, "git branch behind main");
    rig.apply(&Target::Branch("behind".into())).unwrap();
}

#[test]
fn what_was_reviewed_is_what_is_applied() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    fs::write(rig.guest().join("a"), "reviewed\n").unwrap();
    let review = rig.review().unwrap();
    fs::write(rig.guest().join("a"), "later\n").unwrap();
    let row = rig.row();
    let never = lib_vm::Interrupt::never();
    let wrong = "sha256:0123456789abcdef";
    let refused = lib_ws::apply(&mut rig.env(&never), &row, &Target::Worktree, Some(wrong));
    assert!(matches!(refused, Err(lib_ws::WsError::OtherHash { .. })));
    assert_eq!(fs::read_to_string(source.join("a")).unwrap(), "a\n");
    let hash = review.record.hash.clone();
    lib_ws::apply(
        &mut rig.env(&never),
        &row,
        &Target::Worktree,
        Some(&hash[..20]),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(source.join("a")).unwrap(), "reviewed\n");
    assert_eq!(rig.row().spec.exported, Some(hash));

    // A patch that is not the one that was reviewed is not applied.
    let stored = rig.context.workspace(&row.vm, &row.id).join("review.patch");
    let text = fs::read_to_string(&stored)
        .unwrap()
        .replace("reviewed", "tampered");
    fs::write(&stored, text).unwrap();
    let error = rig.apply(&Target::Worktree).unwrap_err();
    assert!(
        matches!(error, lib_ws::WsError::OtherHash { .. }),
        "{error}"
    );

    // Who was given a review has its patch, whatever is looked at after it.
    let first = rig.review().unwrap();
    fs::write(rig.guest().join("a"), "much later\n").unwrap();
    let second = rig.review().unwrap();
    for (review, line) in [
        (&first, "+later\n"),
        (&second, "+much later\n"),
        (&first, "+later\n"),
    ] {
        let mut patch = String::new();
        review.patch().unwrap().read_to_string(&mut patch).unwrap();
        assert!(patch.ends_with(line), "{patch}");
    }
}

#[test]
fn uncommitted_changes_of_the_host_go_in_and_do_not_come_back() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a; echo b > b; echo gone > gone");
    sh(
        &source,
        "echo mine >> a; echo new > new; rm gone; echo staged > s; git add s",
    );
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    assert_eq!(tree(&rig.guest()), tree(&source));
    assert!(rig.review().unwrap().is_empty());
    assert_eq!(
        sh(&rig.guest(), "git status --porcelain"),
        " M a\n D gone\n?? new\n?? s\n"
    );
    fs::write(rig.guest().join("b"), "guest\n").unwrap();
    let review = rig.review().unwrap();
    assert_eq!(review.record.files, 1);
    rig.apply(&Target::Branch("b".into())).unwrap();
    assert_eq!(sh(&source, "git diff --name-only main b --"), "b\n");
    // On top of what was not committed there is no commit to make, but a patch.
    fs::write(rig.guest().join("a"), "guest\n").unwrap();
    rig.review().unwrap();
    let error = rig.apply(&Target::Branch("c".into())).unwrap_err();
    assert!(error.to_string().contains("not committed: a"), "{error}");
    rig.apply(&Target::Worktree).unwrap();
    assert_eq!(tree(&source), tree(&rig.guest()));
}

#[test]
fn line_ends_and_attributes_are_the_repositorys() {
    let mut rig = Rig::new();
    let source = repository(
        &rig,
        "printf '* text=auto\n*.bat text eol=crlf\n*.bin -text\n' > .gitattributes; \
         printf 'a\\r\\nb\\r\\n' > x.bat; printf 'z\\r\\n' > y.bin; printf 'l\\n' > z.txt",
    );
    sh(
        &source,
        "rm x.bat; git checkout -q x.bat; git cat-file blob HEAD:x.bat | od -c | grep -qv '\\\\r'",
    );
    assert_eq!(fs::read(source.join("x.bat")).unwrap(), b"a\r\nb\r\n");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    assert_eq!(fs::read(rig.guest().join("x.bat")).unwrap(), b"a\r\nb\r\n");
    assert_eq!(sh(&rig.guest(), "git status --porcelain"), "");
    fs::write(rig.guest().join("x.bat"), "a\r\nc\r\n").unwrap();
    fs::write(rig.guest().join("y.bin"), "b\r\n").unwrap();
    let patch = rig.patch();
    let clone = clone_and_apply(&rig, &source, &patch);
    assert_eq!(tree(&clone), tree(&rig.guest()));
    // One line of the batch file changed, not all.
    let text = fs::read_to_string(&patch).unwrap();
    assert!(text.contains("-b\n+c\n") && !text.contains("-a"), "{text}");
    rig.apply(&Target::Branch("t".into())).unwrap();
    assert_eq!(sh(&source, "git cat-file blob t:x.bat"), "a\nc\n");
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Remove(usize),
    Rename(usize, usize),
    Mode(usize, bool),
    Link(usize, usize),
    Commit,
}

const NAMES: [&str; 12] = [
    "a",
    "b",
    "d/a",
    "d/b",
    "d/e/f",
    "a/x",
    "sp ace",
    "new\nline",
    "\"q\"",
    "-dash",
    "d/\u{fc}",
    ".gitignore.x",
];

fn change(root: &Path, op: &Op) {
    let at = |index: usize| root.join(NAMES[index % NAMES.len()]);
    match op {
        Op::Write(name, content) => {
            let path = at(*name);
            let parent = path.parent().unwrap();
            if fs::symlink_metadata(parent).is_ok_and(|m| !m.is_dir()) {
                fs::remove_file(parent).unwrap();
            }
            fs::create_dir_all(parent).unwrap();
            if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                fs::remove_dir_all(&path).unwrap();
            }
            let _ = fs::remove_file(&path);
            fs::write(path, content).unwrap();
        }
        // What cannot be done to what is there is not done.
        Op::Remove(name) => drop(fs::remove_file(at(*name))),
        Op::Rename(from, to) => {
            if fs::symlink_metadata(at(*from)).is_ok_and(|m| !m.is_dir()) {
                let _ = fs::rename(at(*from), at(*to));
            }
        }
        Op::Mode(name, executable) => {
            if fs::symlink_metadata(at(*name)).is_ok_and(|m| m.is_file()) {
                set_mode(&at(*name), if *executable { 0o755 } else { 0o644 });
            }
        }
        Op::Link(name, target) => {
            let _ = fs::remove_file(at(*name));
            let _ = std::os::unix::fs::symlink(NAMES[target % NAMES.len()], at(*name));
        }
        Op::Commit => drop(sh(root, "git add -A; git commit -q --allow-empty -m c")),
    }
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => (name.clone(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, c)| Op::Write(n, c)),
        2 => (name.clone(), "[a-c\n\r]{0,30}").prop_map(|(n, c)| Op::Write(n, c.into_bytes())),
        2 => name.clone().prop_map(Op::Remove),
        2 => (name.clone(), name.clone()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (name.clone(), any::<bool>()).prop_map(|(n, x)| Op::Mode(n, x)),
        1 => (name.clone(), name).prop_map(|(a, b)| Op::Link(a, b)),
        1 => Just(Op::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_come_out_as_they_are(
        before in prop::collection::vec(op(), 1..8), inside in prop::collection::vec(op(), 1..12),
    ) {
        let mut rig = Rig::new();
        let source = repository(&rig, "echo base > base");
        for op in &before {
            change(&source, op);
        }
        sh(&source, "git add -A; git commit -q --allow-empty -m second");
        let request = rig.request(&source);
        rig.prepare(&request).unwrap();
        prop_assert_eq!(tree(&rig.guest()), tree(&source));
        for op in &inside {
            change(&rig.guest(), op);
        }
        rig.comes_out(&source, "these changes");
    }
}
