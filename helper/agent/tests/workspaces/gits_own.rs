//! Repositories that scripts of git's own tests left behind (`xtask/src/git_fixtures.rs`): each goes in, is changed,
//! comes out, and the clone is what the guest has.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_tests::Fixtures;

use crate::rig::{Rig, set_mode, sh, tree};

/// Everything is committed, and all files are as git checks them out without this machine's configuration.
const SETTLED: &str = r#"
    find . -mindepth 2 -name .git -prune -exec rm -rf {} +
    rm -f .git/*.lock .git/MERGE_* .git/info/sparse-checkout; rm -rf .git/hooks .git/rebase-*
    for key in core.autocrlf core.eol core.safecrlf core.sparseCheckout core.fileMode core.worktree core.bare; do
        git config --unset-all $key || true; done
    git config user.name u; git config user.email u@example.org
    git add -A > /dev/null 2>&1; git commit -qm settled --allow-empty
    git rm -rqf --cached . || true; git reset -q --hard; git clean -qffdx
"#;

#[test]
fn what_gits_own_tests_leave_comes_out_as_the_guest_has_it() {
    let found = repositories(&Fixtures::find().git_repositories());
    let mut changed = 0;
    for original in &found {
        let name = original.display();
        let mut rig = Rig::new();
        let source = rig.path("src");
        sh(
            rig.base.path(),
            &format!("cp -a '{}' src", original.display()),
        );
        sh(&source, SETTLED);
        let request = rig.request(&source);
        rig.prepare(&request).unwrap();
        let guest = rig.guest();
        let listed = sh(&source, "git ls-files -z | tr '\\0\\n' '\\n\\001'");
        assert_eq!(listed.lines().count(), tree(&guest).len(), "{name}");
        assert_eq!(tree(&guest), tree(&source), "{name}");
        assert_eq!(sh(&guest, "git status --porcelain"), "", "{name}");
        assert!(rig.review().unwrap().is_empty(), "{name}");
        changed += change(&guest, &converted(&source));
        rig.comes_out(&source, &name.to_string());
    }
    println!("{} repositories, {changed} changes", found.len());
    assert!(found.len() >= 12 && changed > 50, "{found:?}, {changed}");
}

/// What each script left.
fn repositories(place: &Path) -> Vec<PathBuf> {
    let entries = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path())
    };
    let mut found: Vec<PathBuf> = entries(place)
        .flat_map(|script| entries(&script).collect::<Vec<_>>())
        .filter(|left| left.join(".git").is_dir())
        .collect();
    found.sort_unstable();
    found
}

/// Files whose bytes git keeps in another way than by their line ends: what a guest makes of them comes out as it
/// is, and is marked.
fn converted(source: &Path) -> HashSet<Vec<u8>> {
    let attributes = sh(
        source,
        "git ls-files -z | git check-attr -z --stdin filter ident working-tree-encoding | tr '\\0\\n' '\\n\\001'",
    );
    let words: Vec<&str> = attributes.lines().collect();
    let converted = words
        .chunks_exact(3)
        .filter(|words| !matches!(words[2], "unspecified" | "unset"));
    converted
        .map(|words| words[0].replace('\u{1}', "\n").into_bytes())
        .collect()
}

/// One thing after another, with each fifth file; returns how many.
fn change(guest: &Path, converted: &HashSet<Vec<u8>>) -> usize {
    let at = |path: &[u8]| guest.join(OsStr::from_bytes(path));
    let mut changes = 1;
    for (number, (path, (kind, content))) in tree(guest).into_iter().enumerate() {
        let dot = path.starts_with(b".git") || path.windows(5).any(|part| part == b"/.git");
        if dot || converted.contains(&path) {
            continue;
        }
        changes += 1;
        // A patch that shows no line of such a file makes git-apply(1) normalise it where attributes say `text`.
        let crlf = content.windows(2).any(|pair| pair == b"\r\n");
        match number % 5 {
            0 | 2 | 3 if kind != 'l' && (crlf || number % 5 == 0) => {
                // A line like the others.
                let end: &[u8] = if content.ends_with(b"\r\n") {
                    b"more\r\n"
                } else {
                    b"more\n"
                };
                fs::write(at(&path), [&content[..], end].concat()).unwrap();
            }
            1 => fs::remove_file(at(&path)).unwrap(),
            2 if kind != 'l' => set_mode(&at(&path), if kind == 'x' { 0o644 } else { 0o755 }),
            3 => fs::rename(at(&path), at(&[&path[..], b" moved"].concat())).unwrap(),
            _ => {
                fs::remove_file(at(&path)).unwrap();
                std::os::unix::fs::symlink("elsewhere", at(&path)).unwrap();
            }
        }
    }
    fs::create_dir_all(at(b"banger/new")).unwrap();
    fs::write(at(b"banger/new/binary"), b"\0\xff\n").unwrap();
    changes
}
