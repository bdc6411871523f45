use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn tree(root: &Path, entries: u32, skip: &[&str]) -> Result<Tree, String> {
    Tree::new(&Watch {
        path: root.as_os_str().as_bytes().to_vec(),
        user: None,
        entries,
        skip: skip.iter().map(|path| path.as_bytes().to_vec()).collect(),
    })
}

/// `+ a`, `- b`, `M c`, `m d`, `T e`, `R a>b`; events are there as soon as the call that made them is done.
fn seen(tree: &mut Tree, everything: bool) -> Vec<String> {
    let mut dirty = Dirty::default();
    tree.take_events(&mut dirty).unwrap();
    if everything {
        dirty.mark_everything();
    }
    let changes = tree.changes(&dirty).unwrap();
    assert!(changes.iter().all(Change::is_lawful));
    changes
        .into_iter()
        .map(|change| {
            let path = String::from_utf8(change.path).unwrap();
            match change.what {
                What::Added => format!("+ {path}"),
                What::Removed => format!("- {path}"),
                What::Modified => format!("M {path}"),
                What::Mode => format!("m {path}"),
                What::Type => format!("T {path}"),
                What::Renamed => {
                    let from = String::from_utf8(change.from.unwrap()).unwrap();
                    format!("R {from}>{path}")
                }
            }
        })
        .collect()
}

fn base() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir_all(base.path().join("a/deep/er")).unwrap();
    fs::create_dir_all(base.path().join(".git/objects")).unwrap();
    for file in ["one", "a/two", "a/deep/er/three", ".git/HEAD"] {
        fs::write(base.path().join(file), file).unwrap();
    }
    base
}

/// The same steps must be seen the same way, whether the kernel told of them or not.
fn steps(everything: bool) {
    let base = base();
    let at = |name: &str| base.path().join(name);
    let mut tree = tree(base.path(), 100, &[]).unwrap();
    assert_eq!(tree.directories(), 4);
    let mut seen = || seen(&mut tree, everything);
    assert_eq!(seen(), [] as [&str; 0]);

    fs::write(at("one"), "longer than it was").unwrap();
    fs::write(at("new"), "").unwrap();
    fs::remove_file(at("a/two")).unwrap();
    fs::write(at(".git/HEAD"), "not looked at").unwrap();
    assert_eq!(seen(), ["- a/two", "+ new", "M one"]);

    fs::set_permissions(at("one"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(at("new"), at("a/newer")).unwrap();
    fs::remove_file(at("a/deep/er/three")).unwrap();
    std::os::unix::fs::symlink("elsewhere", at("a/deep/er/three")).unwrap();
    assert_eq!(seen(), ["T a/deep/er/three", "R new>a/newer", "m one"]);

    // New directories are watched, also below each other, and directories that moved still are.
    fs::create_dir_all(at("b/c/d")).unwrap();
    fs::write(at("b/c/d/file"), "1").unwrap();
    assert_eq!(seen(), ["+ b/c/d/file"]);
    fs::write(at("b/c/d/file"), "22").unwrap();
    fs::rename(at("a"), at("b/moved")).unwrap();
    assert_eq!(
        seen(),
        [
            "M b/c/d/file",
            "R a/deep/er/three>b/moved/deep/er/three",
            "R a/newer>b/moved/newer"
        ]
    );
    fs::write(at("b/moved/deep/er/more"), "").unwrap();
    assert_eq!(seen(), ["+ b/moved/deep/er/more"]);

    // What came and went in between was never there.
    fs::write(at("passing"), "").unwrap();
    fs::remove_file(at("passing")).unwrap();
    fs::remove_dir_all(at("b")).unwrap();
    fs::write(at("b"), "a file now").unwrap();
    assert_eq!(
        seen(),
        [
            "+ b",
            "- b/c/d/file",
            "- b/moved/deep/er/more",
            "- b/moved/deep/er/three",
            "- b/moved/newer"
        ]
    );
    assert_eq!(tree.directories(), 1);
    assert_eq!(tree.entries, 2);
    assert_eq!(tree.by_watch.len(), 1);
}

#[test]
fn changes_are_seen_as_the_kernel_tells_of_them() {
    steps(false);
}

#[test]
fn changes_are_seen_when_the_kernel_has_lost_its_events() {
    steps(true);
}

#[test]
fn directories_that_swap_names_are_told_apart() {
    let base = base();
    let at = |name: &str| base.path().join(name);
    fs::create_dir(at("z")).unwrap();
    fs::write(at("z/four"), "4").unwrap();
    let mut tree = tree(base.path(), 100, &[]).unwrap();
    fs::rename(at("a"), at("x")).unwrap();
    fs::rename(at("z"), at("a")).unwrap();
    fs::rename(at("x"), at("z")).unwrap();
    assert_eq!(
        seen(&mut tree, false),
        [
            "R z/four>a/four",
            "R a/deep/er/three>z/deep/er/three",
            "R a/two>z/two"
        ]
    );
    fs::write(at("z/deep/five"), "").unwrap();
    fs::write(at("a/six"), "").unwrap();
    assert_eq!(seen(&mut tree, false), ["+ a/six", "+ z/deep/five"]);
}

#[test]
fn limits_say_what_they_are() {
    let base = base();
    let error = tree(base.path(), 5, &[]).unwrap_err();
    assert!(error.contains("more than 5 files"), "{error}");
    let mut watched = tree(base.path(), 6, &[]).unwrap();
    fs::write(base.path().join("seven"), "").unwrap();
    let mut dirty = Dirty::default();
    watched.take_events(&mut dirty).unwrap();
    let error = watched.changes(&dirty).unwrap_err();
    assert!(error.contains("more than 6 files"), "{error}");
    // What is skipped does not count.
    assert_eq!(tree(base.path(), 4, &["a/deep"]).unwrap().directories(), 2);
    let missing = tree(&base.path().join("none"), 1, &[]).unwrap_err();
    assert!(missing.contains("none"), "{missing}");
    let file = tree(&base.path().join("one"), 1, &[]).unwrap_err();
    assert!(file.contains("not a directory"), "{file}");
}

#[test]
fn the_end_of_the_directory_is_an_end() {
    let base = base();
    let tree = tree(base.path(), 100, &[]).unwrap();
    fs::rename(base.path(), base.path().with_extension("elsewhere")).unwrap();
    let error = tree.take_events(&mut Dirty::default()).unwrap_err();
    assert!(error.contains("is gone"), "{error}");
    fs::remove_dir_all(base.path().with_extension("elsewhere")).unwrap();
}
