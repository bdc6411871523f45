//! A directory as git sees it, for comparison.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Kind and content by path.
pub type Tree = BTreeMap<Vec<u8>, (char, Vec<u8>)>;

/// Each file and link below a directory, without what is called `.git`: `f`, `x` when its owner may execute it, or
/// `l`; and its content, or where it leads.
///
/// # Panics
/// When something cannot be read.
#[track_caller]
pub fn tree(directory: &Path) -> Tree {
    let mut found = Tree::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(here) = waiting.pop() {
        let entries =
            fs::read_dir(&here).unwrap_or_else(|error| panic!("{}: {error}", here.display()));
        for entry in entries.map(|entry| entry.expect("a listing goes on")) {
            let path = entry.path();
            let kind = entry.file_type().expect("an entry has a kind");
            if entry.file_name() == ".git" {
                continue;
            }
            if kind.is_dir() {
                waiting.push(path);
                continue;
            }
            let content = if kind.is_symlink() {
                let target = fs::read_link(&path).expect("a link can be read");
                ('l', target.as_os_str().as_bytes().to_vec())
            } else {
                let metadata = entry.metadata().expect("a file can be looked at");
                let executable = metadata.permissions().mode() & 0o100 != 0;
                let content = fs::read(&path).expect("a file can be read");
                (if executable { 'x' } else { 'f' }, content)
            };
            let name = path.strip_prefix(directory).expect("it is below");
            found.insert(name.as_os_str().as_bytes().to_vec(), content);
        }
    }
    found
}
