//! What goes in, by mode and repository, and what a second `prepare` does.

use std::fs;
use std::os::unix::fs::MetadataExt;

use lib_model::Risk;
use lib_ws::{Mode, Prepare, Target, WsError};

use crate::rig::{Rig, clone_and_apply, repository, sh, tree};

#[test]
fn history_goes_by_mode() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a");
    sh(
        &source,
        "echo b > a; git commit -qam second; git tag v1; echo c > a; git commit -qam third",
    );
    let guest = rig.guest();
    let at = |rig: &Rig, mode, name: &str| Prepare {
        mode,
        path: Some(rig.path("guest").join(name).display().to_string()),
        ..rig.request(&source)
    };
    rig.prepare(&at(&rig, Mode::Shallow, "ws")).unwrap();
    assert_eq!(
        sh(
            &guest,
            "git log --format=%s; git fsck --no-dangling; git status --porcelain"
        ),
        "third\n"
    );
    // What the guest gets has neither the host's configuration nor its remotes.
    assert_eq!(
        sh(&guest, "git config --local user.name || true; git remote"),
        ""
    );
    rig.prepare(&at(&rig, Mode::Full, "full")).unwrap();
    let full = rig.path("guest/full");
    assert_eq!(
        sh(&full, "git log --format=%s; git fsck --no-dangling"),
        "third\nsecond\nfirst\n"
    );
    let record = rig.prepare(&at(&rig, Mode::WorktreeOnly, "files")).unwrap();
    assert!(!record.git && !rig.path("guest/files/.git").exists());

    let from = Prepare {
        from: Some("v1".into()),
        branch: Some("fix/it".into()),
        ..at(&rig, Mode::Full, "from")
    };
    let record = rig.prepare(&from).unwrap();
    assert_eq!(record.branch.as_deref(), Some("fix/it"));
    let guest = rig.path("guest/from");
    assert_eq!(fs::read_to_string(guest.join("a")).unwrap(), "b\n");
    assert_eq!(
        sh(&guest, "git status --porcelain -b; git log --format=%s"),
        "## fix/it\nsecond\nfirst\n"
    );
    let wrong = Prepare {
        from: Some("-nothing".into()),
        ..at(&rig, Mode::Full, "no")
    };
    assert!(matches!(rig.prepare(&wrong), Err(WsError::Usage { .. })));
    let wrong = Prepare {
        branch: Some("a..b".into()),
        ..at(&rig, Mode::Full, "no")
    };
    assert!(matches!(rig.prepare(&wrong), Err(WsError::Usage { .. })));
}

#[test]
fn every_kind_of_repository_is_handled_or_refused() {
    let mut rig = Rig::new();
    let base = rig.base.path().to_owned();
    sh(
        &base,
        "git init -q -b main unborn; echo x > unborn/x; git init -q empty; git init -q --bare bare; mkdir none",
    );
    let request = |rig: &Rig, name: &str| Prepare {
        path: Some(rig.path("guest").join(name).display().to_string()),
        ..rig.request(&rig.path(name))
    };
    let record = rig.prepare(&request(&rig, "unborn")).unwrap();
    assert_eq!(
        (record.base, record.branch.as_deref()),
        (None, Some("main"))
    );
    let guest = rig.path("guest/unborn");
    assert_eq!(sh(&guest, "git status --porcelain"), "?? x\n");
    rig.prepare(&request(&rig, "empty")).unwrap();
    assert!(tree(&rig.path("guest/empty")).is_empty());
    for name in ["bare", "none", "missing"] {
        let error = rig.prepare(&request(&rig, name)).unwrap_err();
        assert!(
            matches!(error, WsError::NoRepository { .. }),
            "{name}: {error}"
        );
    }

    // A linked worktree, a sparse checkout, and a directory within.
    let source = repository(&rig, "mkdir -p in out; echo i > in/f; echo o > out/f");
    sh(&source, "git worktree add -q ../linked -b linked");
    rig.prepare(&request(&rig, "linked")).unwrap();
    assert_eq!(tree(&rig.path("guest/linked")), tree(&source));
    sh(&source, "git sparse-checkout set in 2> /dev/null");
    assert!(!source.join("out").exists());
    let within = Prepare {
        source: source.join("in"),
        path: Some(rig.path("guest/sparse").display().to_string()),
        ..Prepare::default()
    };
    rig.prepare(&within).unwrap();
    let guest = rig.path("guest/sparse");
    assert_eq!(tree(&guest), tree(&source));
    assert_eq!(
        sh(&guest, "git status --porcelain; git ls-files -t"),
        "H in/f\nS out/f\n"
    );
}

#[test]
fn submodules_and_filtered_files_go_as_the_working_tree_has_them() {
    let mut rig = Rig::new();
    let base = rig.base.path().to_owned();
    sh(
        &base,
        "git init -q -b main inner; cd inner; echo deep > deep; git add .; git commit -qm inner",
    );
    let source = repository(
        &rig,
        "git config filter.lfs.clean 'sed s/^real:*/pointer/'; git config filter.lfs.smudge 'sed s/^pointer/real:/'; \
         echo '*.big filter=lfs' > .gitattributes; echo real > x.big; \
         git -c protocol.file.allow=always submodule --quiet add ../inner sub",
    );
    sh(
        &source,
        "echo changed > sub/deep; rm x.big; git checkout -q x.big; touch -d 1999-01-01 x.big",
    );
    assert_eq!(fs::read_to_string(source.join("x.big")).unwrap(), "real:\n");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    let guest = rig.guest();
    assert_eq!(tree(&guest), tree(&source));
    // The guest has no such filter, and yet takes the file for unchanged.
    assert_eq!(sh(&guest, "git status --porcelain"), "");
    assert!(rig.review().unwrap().is_empty());
    // Nor is one that was written again, in whatever way, another file; to prepare once more sends nothing.
    sh(&guest, "cat x.big > copy; mv copy x.big");
    assert!(rig.review().unwrap().is_empty());
    assert_eq!(rig.prepare(&request).unwrap().sent_files, 0);
    assert!(rig.review().unwrap().is_empty());
    fs::write(guest.join("sub/deep"), "guest\n").unwrap();
    fs::write(guest.join("x.big"), "other\n").unwrap();
    // One that is new here would go through the host's filter there.
    fs::write(guest.join("sub/new.big"), "of no such repository\n").unwrap();
    fs::write(guest.join("new.big"), "new\n").unwrap();
    fs::write(guest.join("new.small"), "new\n").unwrap();
    let review = rig.review().unwrap();
    let risks: Vec<_> = review
        .changes
        .iter()
        .map(|c| (c.path.as_str(), &c.risks[..]))
        .collect();
    let (filtered, none): (&[Risk], &[Risk]) = (&[Risk::Filtered], &[]);
    assert_eq!(
        risks,
        [
            ("new.big", filtered),
            ("new.small", none),
            ("x.big", filtered),
            ("sub/deep", none),
            ("sub/new.big", none)
        ]
    );
    let error = rig.apply(&Target::Branch("b".into())).unwrap_err();
    assert!(error.to_string().contains("submodules"), "{error}");
    rig.apply(&Target::Worktree).unwrap();
    assert_eq!(
        fs::read_to_string(source.join("sub/deep")).unwrap(),
        "guest\n"
    );
}

#[test]
fn ignored_files_stay_unless_they_are_asked_for() {
    let mut rig = Rig::new();
    let source = repository(
        &rig,
        "printf '*.log\\n/target/\\n.env\\n' > .gitignore; echo a > a",
    );
    sh(
        &source,
        "echo secret > .env; echo l > x.log; mkdir -p target/d; echo t > target/d/t; echo u > untracked",
    );
    let mut request = rig.request(&source);
    rig.prepare(&request).unwrap();
    let guest = rig.guest();
    assert_eq!(tree(&guest).len(), 3);
    request.include_ignored = vec![".env".into(), "target/d/*".into()];
    rig.prepare(&request).unwrap();
    assert!(guest.join(".env").exists() && guest.join("target/d/t").exists());
    assert!(!guest.join("x.log").exists());
    assert!(rig.review().unwrap().is_empty());
    fs::write(guest.join(".env"), "other").unwrap();
    fs::write(guest.join("y.log"), "other").unwrap();
    assert_eq!(rig.review().unwrap().record.files, 1);
}

#[test]
fn a_second_prepare_sends_what_changed_and_overwrites_nothing() {
    let mut rig = Rig::new();
    let source = repository(
        &rig,
        "for i in $(seq 50); do echo $i > f$i; done; mkdir d; echo x > d/x",
    );
    let request = rig.request(&source);
    let first = rig.prepare(&request).unwrap();
    assert_eq!(first.sent_files, 51);
    let guest = rig.guest();
    let inode = |name: &str| fs::metadata(guest.join(name)).unwrap().ino();
    let (unchanged, changed) = (inode("f1"), inode("f2"));
    sh(
        &source,
        "echo new > f2; rm -r d; echo d > d; git add -A; git commit -qm second",
    );
    fs::write(guest.join("f3"), "guest\n").unwrap();
    fs::write(guest.join("own"), "guest\n").unwrap();
    let second = rig.prepare(&request).unwrap();
    assert!(second.changed);
    assert_eq!(second.sent_files, 2);
    assert_eq!(inode("f1"), unchanged);
    assert_ne!(inode("f2"), changed);
    assert_eq!(fs::read_to_string(guest.join("d")).unwrap(), "d\n");
    assert_eq!(
        sh(&guest, "git log --format=%s -1; git status --porcelain"),
        "second\n M f3\n?? own\n"
    );
    assert_eq!(rig.review().unwrap().record.files, 2);
    let third = rig.prepare(&request).unwrap();
    assert!(!third.changed && third.sent_files == 0, "{third:?}");

    // Both sides changed a file: nothing is lost without a word.
    sh(&source, "echo host > f3");
    let error = rig.prepare(&request).unwrap_err();
    assert!(
        matches!(&error, WsError::Conflict { paths, .. } if paths == &["f3"]),
        "{error}"
    );
    assert_eq!(fs::read_to_string(guest.join("f3")).unwrap(), "guest\n");
    // What was refused has touched nothing: the way out that the error names is open.
    assert!(rig.row().prepared_ms.is_some());
    assert_eq!(rig.review().unwrap().record.files, 2);
    // The same change on both sides is none.
    sh(&source, "echo guest > f3");
    rig.prepare(&request).unwrap();
    sh(&source, "echo host > f3");
    fs::write(guest.join("f3"), "other\n").unwrap();
    let forced = Prepare {
        force: true,
        ..request.clone()
    };
    rig.prepare(&forced).unwrap();
    assert_eq!(fs::read_to_string(guest.join("f3")).unwrap(), "host\n");
    assert_eq!(fs::read_to_string(guest.join("own")).unwrap(), "guest\n");

    // Commits in the guest are in the way of the host's.
    sh(&guest, "git add -A; git commit -qm guest");
    sh(&source, "git commit -qam third");
    let error = rig.prepare(&request).unwrap_err();
    assert!(error.to_string().contains("moved on"), "{error}");
}

#[test]
fn a_directory_that_is_somebody_elses_is_not_touched() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a");
    fs::create_dir_all(rig.guest()).unwrap();
    fs::write(rig.guest().join("precious"), "x").unwrap();
    let request = rig.request(&source);
    let error = rig.prepare(&request).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    let root = Prepare {
        path: Some("/".into()),
        ..request.clone()
    };
    rig.prepare(&root).unwrap_err();
    rig.prepare(&Prepare {
        force: true,
        ..request
    })
    .unwrap();
    assert!(rig.guest().join("precious").exists());
}

#[test]
fn a_guest_without_git_has_files_and_its_changes_come_out() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a; echo b > b");
    let request = Prepare {
        mode: Mode::WorktreeOnly,
        ..rig.request(&source)
    };
    rig.prepare(&request).unwrap();
    sh(&rig.guest(), "echo c > a; rm b; echo n > n");
    let patch = rig.patch();
    let clone = clone_and_apply(&rig, &source, &patch);
    assert_eq!(tree(&clone), tree(&rig.guest()));
    rig.apply(&Target::Branch("out".into())).unwrap();
    assert_eq!(sh(&source, "git log --format=%an out"), "u\na\n");
}

#[test]
fn a_submodule_that_is_not_there_stays_what_it_is() {
    let mut rig = Rig::new();
    let source = repository(
        &rig,
        "echo a > a; mkdir sub; git update-index --add --cacheinfo 160000,$(printf %040d 1),sub",
    );
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    assert_eq!(sh(&rig.guest(), "git status --porcelain; ls"), "a\nsub\n");
    assert!(rig.review().unwrap().is_empty());
    // What is made there belongs to another repository, and does not take its place.
    sh(&rig.guest(), "echo x > sub/file; echo b > a");
    let review = rig.review().unwrap();
    assert_eq!(review.record.files, 1, "{:?}", review.changes);
    assert!(
        review.record.left_out[0].starts_with("sub/: a submodule"),
        "{:?}",
        review.record.left_out
    );
    rig.apply(&Target::Branch("out".into())).unwrap();
    let listed = sh(&source, "git ls-tree out");
    assert!(listed.contains("160000 commit"), "{listed}");
}

#[test]
fn nothing_of_a_repository_is_copied_on_the_way() {
    let mut rig = Rig::new();
    let source = repository(&rig, "head -c 4000000 /dev/urandom > large; echo a > a");
    sh(&source, "echo b > a; git commit -qam second");
    let request = Prepare {
        mode: Mode::Full,
        ..rig.request(&source)
    };
    let record = rig.prepare(&request).unwrap();
    assert!(record.sent_bytes > 4_000_000, "{record:?}");
    let row = rig.row();
    let kept = rig.context.workspace(&row.vm, &row.id);
    let bytes: u64 = sh(&kept, "du -sb . | cut -f 1").trim().parse().unwrap();
    assert!(bytes < 100_000, "{bytes} bytes are kept on the host");
}
