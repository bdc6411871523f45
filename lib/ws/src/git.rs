//! The host's git, in two ways that are never mixed up.
//!
//! [`Git::of_user`] works in the user's repository with the user's own configuration, as a command that
//! the user types would, but without hooks. [`Git::scratch`] works in a bare repository of ours whose
//! objects came from a guest: no configuration of anybody's, no attributes, no transport.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::{Result, WsError};

/// `rev-parse --path-format` came with it.
const NEEDED: (u32, u32) = (2, 31);
const NEEDED_TEXT: &str = "2.31";
/// Words of a failure are cut here.
const MOST_WORDS: usize = 2000;

/// Or it would map packs whole, however large they are (git-config(1)).
const SMALL_WINDOWS: [&str; 4] = [
    "-c",
    "core.packedGitWindowSize=1m",
    "-c",
    "core.packedGitLimit=16m",
];

/// The program, found once.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    program: PathBuf,
}

/// Where objects are that a repository only reads.
pub(crate) type Alternates<'a> = &'a [PathBuf];

impl Git {
    /// Looks for git in `PATH`, and asks for its version.
    ///
    /// # Errors
    /// [`WsError::NoGit`], [`WsError::OldGit`].
    pub(crate) fn find() -> Result<Git> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join("git"))
            .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok())
            .ok_or(WsError::NoGit)?;
        let git = Git { program };
        let output = git.command("version", |_| {}).arg("version").output()?;
        let text = String::from_utf8_lossy(&output).trim().to_owned();
        let version = text.strip_prefix("git version ").unwrap_or(&text);
        match parse_version(version) {
            Some(found) if found >= NEEDED => Ok(git),
            _ => Err(WsError::OldGit {
                found: version.chars().take(40).collect(),
                needed: NEEDED_TEXT,
            }),
        }
    }

    fn command(&self, name: &str, prepare: impl FnOnce(&mut Command)) -> Call {
        let mut command = Command::new(&self.program);
        prepare(&mut command);
        Call {
            name: name.to_owned(),
            command,
        }
    }

    /// In the user's repository at `directory`.
    pub(crate) fn of_user(&self, directory: &Path, name: &str) -> Call {
        self.command(name, |command| {
            for (variable, _) in std::env::vars_os() {
                // Those that git sets for its hooks lead to another repository (git(1)).
                if variable.as_encoded_bytes().starts_with(b"GIT_") && !is_of_user(&variable) {
                    command.env_remove(variable);
                }
            }
            command
                .env("GIT_OPTIONAL_LOCKS", "0")
                .env("GIT_TERMINAL_PROMPT", "0")
                .env("LC_ALL", "C")
                .arg("-C")
                .arg(directory)
                .args(["-c", "core.hooksPath=/dev/null"])
                .args(["-c", "core.fsmonitor=false"])
                // Or an index of ours would leave a shared one in the user's repository.
                .args(["-c", "core.splitIndex=false"])
                .args(SMALL_WINDOWS)
                .arg(name);
        })
    }

    /// Refuses what is no name of a branch (git-check-ref-format(1)), shorthands such as `@{-1}` too.
    ///
    /// # Errors
    /// [`WsError::Usage`].
    pub(crate) fn check_branch(&self, top: &Path, branch: &str) -> Result<()> {
        let valid = self
            .of_user(top, "check-ref-format")
            .args(["--branch", branch])
            .line_if_any()?;
        match valid.as_deref() == Some(branch) {
            true => Ok(()),
            false => Err(WsError::Usage {
                what: format!("`{branch}` is no name of a branch"),
                hint: "git help check-ref-format".into(),
            }),
        }
    }

    /// In a bare repository of ours. What is in it may come from a guest.
    pub(crate) fn scratch(
        &self,
        repository: &Path,
        alternates: Alternates<'_>,
        name: &str,
    ) -> Call {
        self.command(name, |command| {
            command
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", "/nonexistent")
                .env("LC_ALL", "C")
                .env("GIT_DIR", repository)
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_CONFIG_SYSTEM", "/dev/null")
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_ATTR_NOSYSTEM", "1")
                .env("GIT_ALLOW_PROTOCOL", "")
                .env("GIT_TERMINAL_PROMPT", "0")
                .env("GIT_NO_REPLACE_OBJECTS", "1")
                .env("GIT_NO_LAZY_FETCH", "1")
                .env("GIT_AUTHOR_NAME", "banger")
                .env("GIT_AUTHOR_EMAIL", "banger@localhost")
                .env("GIT_COMMITTER_NAME", "banger")
                .env("GIT_COMMITTER_EMAIL", "banger@localhost");
            if !alternates.is_empty() {
                command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", joined(alternates));
            }
            for setting in [
                "core.hooksPath=/dev/null",
                "core.attributesFile=/dev/null",
                "core.excludesFile=/dev/null",
                "core.fsmonitor=false",
                "core.alternateRefsCommand=",
                "core.bigFileThreshold=1m",
                "protocol.allow=never",
                "gc.auto=0",
                "maintenance.auto=false",
            ] {
                command.args(["-c", setting]);
            }
            command.args(SMALL_WINDOWS).arg(name);
        })
    }

    /// Makes a bare repository without templates.
    ///
    /// # Errors
    /// When git cannot make it.
    pub(crate) fn make_scratch(&self, repository: &Path, format: &str) -> Result<()> {
        self.scratch(repository, &[], "init")
            .args(["--quiet", "--bare", "--template="])
            .arg(format!("--object-format={format}"))
            .output()
            .map(drop)
    }
}

/// A bare repository of ours, whose missing objects are in those that it only reads.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    pub(crate) git: Git,
    pub(crate) path: PathBuf,
    pub(crate) alternates: Vec<PathBuf>,
}

impl Scratch {
    /// See [`Git::scratch`].
    pub(crate) fn call(&self, name: &str) -> Call {
        self.git.scratch(&self.path, &self.alternates, name)
    }
}

/// Who the user is for commits, and how far up a repository is looked for, is theirs to say by the
/// environment, too.
fn is_of_user(variable: &OsStr) -> bool {
    let name = variable.as_encoded_bytes();
    name == b"GIT_CEILING_DIRECTORIES"
        || name.starts_with(b"GIT_AUTHOR_")
        || name.starts_with(b"GIT_COMMITTER_")
        || name.starts_with(b"GIT_CONFIG")
        || name == b"GIT_EXEC_PATH"
}

/// `GIT_ALTERNATE_OBJECT_DIRECTORIES` takes quoted paths, so that a colon in one is none (git(1)).
pub(crate) fn joined(paths: Alternates<'_>) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let quoted: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| quoted(path.as_os_str().as_bytes()))
        .collect();
    OsString::from_vec(quoted.join(&b':'))
}

/// As git quotes paths in C's way (git-config(1), core.quotePath).
pub(crate) fn quoted(path: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in path {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0..=0x1f | 0x7f..=0xff => out.extend(format!("\\{byte:03o}").bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
    out
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// One run of git.
pub(crate) struct Call {
    name: String,
    command: Command,
}

impl Call {
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Ctrl-C in a terminal does not reach it: what it begins it ends.
    pub(crate) fn apart(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// Runs it with nothing on its standard input; returns its standard output.
    ///
    /// # Errors
    /// [`WsError::Git`] unless it ends with 0.
    pub(crate) fn output(self) -> Result<Vec<u8>> {
        self.output_of(&[])
    }

    /// As [`Call::output`], as text without the newline at its end.
    pub(crate) fn line(self) -> Result<String> {
        let output = self.output()?;
        Ok(String::from_utf8_lossy(&output)
            .trim_end_matches('\n')
            .to_owned())
    }

    /// As [`Call::line`]; none when git says no.
    pub(crate) fn line_if_any(self) -> Result<Option<String>> {
        match self.line() {
            Ok(line) => Ok(Some(line).filter(|line| !line.is_empty())),
            Err(WsError::Git { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs it with `input` on its standard input; returns its standard output.
    ///
    /// # Errors
    /// [`WsError::Git`] unless it ends with 0.
    pub(crate) fn output_of(self, input: &[u8]) -> Result<Vec<u8>> {
        let mut running = self.spawn(Stdio::piped())?;
        let stdin = running.stdin.take();
        let stdout = running.child.stdout.take();
        let mut output = Vec::new();
        let read = std::thread::scope(|scope| {
            scope.spawn(move || {
                // One that ends early says why by its status.
                stdin.map(|mut stdin| stdin.write_all(input))
            });
            stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut output))
        });
        let read = read.map_err(running.failed());
        running.finish()?;
        read?;
        Ok(output)
    }

    /// Starts it with a pipe as standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(mut self, stdout: Stdio) -> Result<RunningGit> {
        let program = PathBuf::from(self.command.get_program());
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(WsError::io("run", &program))?;
        let stderr = child.stderr.take();
        let words = std::thread::spawn(move || stderr.map(last_words).unwrap_or_default());
        Ok(RunningGit {
            name: self.name,
            stdin: child.stdin.take(),
            child,
            words: Some(words),
        })
    }
}

/// Keeps the end of what is said, and reads all of it.
fn last_words(mut from: impl Read) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * MOST_WORDS {
            kept.drain(..kept.len() - MOST_WORDS);
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// A git that runs; killed when dropped before [`RunningGit::finish`].
pub(crate) struct RunningGit {
    name: String,
    /// What it reads.
    pub(crate) stdin: Option<ChildStdin>,
    /// The process.
    pub(crate) child: Child,
    words: Option<std::thread::JoinHandle<String>>,
}

impl RunningGit {
    /// For an error of its pipes.
    pub(crate) fn failed(&self) -> impl FnOnce(io::Error) -> WsError + use<> {
        let command = self.name.clone();
        move |error| WsError::Git {
            command,
            words: error.to_string(),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`WsError::Git`] unless it ends with 0.
    pub(crate) fn finish(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait().map_err(self.failed())?;
        let words = self.words.take().and_then(|words| words.join().ok());
        if status.success() {
            return Ok(());
        }
        let words = words.unwrap_or_default();
        Err(WsError::Git {
            command: self.name.clone(),
            words: match words.is_empty() {
                true => status.to_string(),
                false => words.replace('\n', "; "),
            },
        })
    }
}

impl Drop for RunningGit {
    fn drop(&mut self) {
        if self.words.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_understood() {
        for (text, version) in [
            ("2.39.5", Some((2, 39))),
            ("2.47.3.windows.1", Some((2, 47))),
            ("2.50.1 (Apple Git-155)", Some((2, 50))),
            ("git", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }

    #[test]
    fn paths_are_quoted_as_git_reads_them() {
        assert_eq!(quoted(b"/a:b"), b"\"/a:b\"");
        assert_eq!(quoted(b"a\"\\\n\xff"), b"\"a\\\"\\\\\\012\\377\"");
    }

    #[test]
    fn a_failure_says_what_git_said() {
        let git = Git::find().unwrap();
        let base = tempfile::tempdir().unwrap();
        let error = git.of_user(base.path(), "rev-parse").arg("HEAD").output();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("not a git repository"), "{error}");
    }

    #[test]
    fn names_that_are_no_branches_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let git = Git::find().unwrap();
        git.of_user(place.path(), "init").output().unwrap();
        git.check_branch(place.path(), "fix/one").unwrap();
        for name in ["", "a..b", "-x", "@{-1}", "a b", "x.lock", "HEAD"] {
            let refused = git.check_branch(place.path(), name);
            assert!(matches!(refused, Err(WsError::Usage { .. })), "{name}");
        }
    }
}
