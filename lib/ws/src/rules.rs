//! What counts although nobody tracks it: `.gitignore` of the guest, excludes of the host, and what was asked for. A
//! guest's rules are data: patterns, matched in linear time, and not more of them than a repository can have.

use std::collections::HashMap;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Result, WsError};
use crate::scan::os;

/// All of them together, in bytes and in lines: each line is held as a pattern, which takes much more than its bytes.
const LONGEST: usize = 8 << 20;
const MOST: usize = 100_000;

/// The rules of one tree.
pub(crate) struct Rules {
    /// By the directory of their `.gitignore`.
    of: HashMap<Vec<u8>, Gitignore>,
    excludes: Gitignore,
    include: Option<Gitignore>,
    bytes: usize,
    lines: usize,
}

impl Rules {
    /// With the host's excludes, and patterns of what counts all the same.
    pub(crate) fn new(excludes: &[u8], include: &[String]) -> Rules {
        let include = include.join("\n");
        Rules {
            of: HashMap::new(),
            excludes: matcher(excludes),
            include: (!include.is_empty()).then(|| matcher(include.as_bytes())),
            bytes: 0,
            lines: 0,
        }
    }

    /// Takes a directory's `.gitignore`.
    ///
    /// # Errors
    /// [`WsError::Limit`].
    pub(crate) fn add(&mut self, directory: Vec<u8>, text: &[u8]) -> Result<()> {
        self.bytes += text.len();
        self.lines += text.split(|byte| *byte == b'\n').count();
        if self.bytes > LONGEST || self.lines > MOST {
            return Err(WsError::Limit {
                what: format!(
                    "more than {MOST} lines or {} MiB of .gitignore",
                    LONGEST >> 20
                ),
                hint: "remove what nobody needs from the .gitignore files in the VM",
            });
        }
        self.of.insert(directory, matcher(text));
        Ok(())
    }

    /// Something ignored may count.
    pub(crate) fn include_any(&self) -> bool {
        self.include.is_some()
    }

    /// The deepest `.gitignore` with a say decides; then the host's own excludes (gitignore(5)).
    pub(crate) fn is_ignored(&self, path: &[u8], is_directory: bool) -> bool {
        let mut parent = path;
        while let Some(slash) = parent.iter().rposition(|byte| *byte == b'/') {
            parent = &parent[..slash];
            if let Some(rules) = self.of.get(parent) {
                let relative = &path[slash + 1..];
                let found = rules.matched(os(relative), is_directory);
                if !found.is_none() {
                    return found.is_ignore();
                }
            }
        }
        if let Some(rules) = self.of.get(&b""[..]) {
            let found = rules.matched(os(path), is_directory);
            if !found.is_none() {
                return found.is_ignore();
            }
        }
        self.excludes.matched(os(path), is_directory).is_ignore()
    }

    /// Somebody asked for it, ignored or not.
    pub(crate) fn is_included(&self, path: &[u8]) -> bool {
        self.include.as_ref().is_some_and(|include| {
            include
                .matched_path_or_any_parents(os(path), false)
                .is_ignore()
        })
    }
}

/// The rules of a file of patterns; lines that are none are left out, as git does.
fn matcher(text: &[u8]) -> Gitignore {
    let mut builder = GitignoreBuilder::new("");
    for line in text.split(|byte| *byte == b'\n') {
        // Patterns of bytes that are no UTF-8 match nothing that we know of.
        if let Ok(line) = std::str::from_utf8(line) {
            let _ = builder.add_line(None, line.trim_end_matches('\r'));
        }
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_gitignore_decides() {
        let mut rules = Rules::new(b"*.swp\n", &[]);
        let top = b"/top\n*.o\nbuild/\n# a comment\n";
        rules.add(b"".to_vec(), top).unwrap();
        rules.add(b"a".to_vec(), b"!keep.o\n").unwrap();
        for (path, directory, ignored) in [
            ("top", false, true),
            ("a/top", false, false),
            ("x.o", false, true),
            ("a/x.o", false, true),
            ("a/keep.o", false, false),
            ("a/b/keep.o", false, false),
            ("build", true, true),
            ("build", false, false),
            ("a/.x.swp", false, true),
        ] {
            assert_eq!(
                rules.is_ignored(path.as_bytes(), directory),
                ignored,
                "{path}"
            );
        }
    }
}
