//! Which of a guest's files the host's repository ignores: asked of one `git check-ignore` that goes on.
//!
//! It reads the host's own rules; a guest's names reach it as data on its standard input, and nothing else does.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::stale::git;

/// It ends at names that lead beyond a link or into a submodule; a guest that makes it end again and again
/// is no longer asked about.
const MOST_BEGINNINGS: u32 = 20;

/// The host's rules.
pub struct Ignored {
    source: PathBuf,
    git: Option<Asked>,
    begun: u32,
}

struct Asked {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Ignored {
    /// Of the repository at `source`.
    pub fn of(source: &Path) -> Ignored {
        Ignored {
            source: source.to_owned(),
            git: None,
            begun: 0,
        }
    }

    /// Whether the file is ignored and not tracked. Where git cannot say, it is not.
    pub fn contains(&mut self, path: &[u8]) -> bool {
        if self.git.is_none() && self.begun < MOST_BEGINNINGS {
            self.begun += 1;
            self.git = Asked::begin(&self.source).ok();
        }
        let Some(git) = &mut self.git else {
            return false;
        };
        match git.ask(path) {
            Ok(ignored) => ignored,
            Err(_) => {
                self.git = None;
                false
            }
        }
    }
}

impl Asked {
    fn begin(source: &Path) -> io::Result<Asked> {
        let mut child = git(source)
            .args([
                "check-ignore",
                "--stdin",
                "-z",
                "--verbose",
                "--non-matching",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(questions), Some(answers)) => Ok(Asked {
                child,
                questions,
                answers: BufReader::new(answers),
            }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Source, line, pattern and name, each with its end; the first three are empty without a match
    /// (git-check-ignore(1)).
    fn ask(&mut self, path: &[u8]) -> io::Result<bool> {
        // So that a name is a name, whatever it begins with: check-ignore takes pathspecs (gitglossary(7)), and
        // refuses GIT_LITERAL_PATHSPECS.
        self.questions
            .write_all(&[&b"./"[..], path, b"\0"].concat())?;
        let mut pattern = Vec::new();
        for field in 0..4 {
            let mut text = Vec::new();
            self.answers.read_until(0, &mut text)?;
            if text.pop() != Some(0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if field == 2 {
                pattern = text;
            }
        }
        Ok(!pattern.is_empty() && !pattern.starts_with(b"!"))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_hosts_rules_decide_and_odd_names_are_only_names() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        let run = |words: &[&str]| {
            assert!(git(base.path()).args(words).status().unwrap().success());
        };
        run(&["init", "-q"]);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/x"), "").unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        fs::write(at(".gitignore"), "target/\n*.o\n!keep.o\n").unwrap();
        fs::write(at("tracked.o"), "").unwrap();
        run(&["add", "-f", "tracked.o"]);
        let mut ignored = Ignored::of(base.path());
        for (path, expected) in [
            (&b"target/debug/x"[..], true),
            (b"a.o", true),
            (b"keep.o", false),
            (b"tracked.o", false),
            (b"src/main.rs", false),
            (b"-x\n\"$(id)\".o", true),
            (b"\xff\xfe.o", true),
            (b"--help", false),
            // Git refuses to look beyond a link, and ends; the next question is answered all the same.
            (b"link/x.o", false),
            (b"b.o", true),
            (b":(glob)**.o", true),
        ] {
            assert_eq!(ignored.contains(path), expected, "{}", path.escape_ascii());
        }
        for _ in 0..2 * MOST_BEGINNINGS {
            assert!(!ignored.contains(b"link/x.o"));
        }
        assert_eq!(ignored.begun, MOST_BEGINNINGS);
        assert!(!Ignored::of(&at("real/none")).contains(b"a.o"));
    }
}
