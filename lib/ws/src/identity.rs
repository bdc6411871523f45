//! Whose commits they are: `user.name` and `user.email` of the host's git, for the guest's.
//!
//! The guest's own git writes its configuration, so nothing of it is lost, and a guest without git needs none.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use lib_guest::{CallErrorKind, Error, Exec, Exit, Guest, Io, Outcome, Sink};

const KEYS: [&str; 2] = ["user.name", "user.email"];
/// No name is longer, in bytes.
const LONGEST: usize = 1000;
/// What is heard of the guest's answer, in bytes.
const LONGEST_ANSWER: usize = 4096;

/// Name and address, as far as the host knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    values: [Option<String>; 2],
}

/// What became of an identity in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The guest has what it had not.
    Set,
    /// It had one already; that stays.
    Kept,
    /// The guest has no git.
    NoGit,
    /// The host's git knows none.
    Unknown,
}

impl Told {
    /// The word in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Told::Set => "set",
            Told::Kept => "kept",
            Told::NoGit => "no-git",
            Told::Unknown => "unknown",
        }
    }
}

impl Identity {
    /// The host's, as its git says in `repository`, or anywhere. Without git there is none.
    ///
    /// # Errors
    /// When git cannot be run although it is there.
    pub fn of_host(repository: Option<&Path>) -> io::Result<Identity> {
        let mut git = Command::new("git");
        if let Some(repository) = repository {
            git.arg("-C").arg(repository);
        } else {
            git.arg("-C").arg("/");
        }
        let asked = git
            .args(["config", "-z", "--get-regexp", r"^user\.(name|email)$"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        match asked {
            Ok(output) => Ok(Identity::parse(&output.stdout)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Identity::default()),
            Err(error) => Err(error),
        }
    }

    /// `key\nvalue\0`, later wins (git-config(1), `-z`).
    fn parse(output: &[u8]) -> Identity {
        let mut identity = Identity::default();
        for entry in output.split(|byte| *byte == 0) {
            let Some((key, value)) = str::from_utf8(entry).ok().and_then(|e| e.split_once('\n'))
            else {
                continue;
            };
            let lawful = !value.trim().is_empty()
                && value.len() <= LONGEST
                && !value.contains(char::is_control);
            if let Some(index) = KEYS.iter().position(|known| *known == key) {
                identity.values[index] = lawful.then(|| value.to_owned());
            }
        }
        identity
    }

    /// Sets what the guest's git does not know yet, for this user, the image's own without one.
    ///
    /// # Errors
    /// When the guest does not answer, or its git cannot write.
    pub fn tell(&self, guest: &Guest, user: Option<&str>) -> Result<Told, Error> {
        if self.values.iter().all(Option::is_none) {
            return Ok(Told::Unknown);
        }
        let mut known = Vec::new();
        let asked = [
            "config",
            "--name-only",
            "--get-regexp",
            r"^user\.(name|email)$",
        ];
        match git(guest, user, &asked, &mut known) {
            Ok(_) => {}
            Err(Error::Call(error))
                if matches!(
                    error.kind,
                    CallErrorKind::NotFound | CallErrorKind::NotExecutable
                ) =>
            {
                return Ok(Told::NoGit);
            }
            Err(error) => return Err(error),
        }
        let known = String::from_utf8_lossy(&known);
        let mut told = Told::Kept;
        for (key, value) in KEYS.iter().zip(&self.values) {
            let Some(value) = value
                .as_deref()
                .filter(|_| !known.lines().any(|line| line == *key))
            else {
                continue;
            };
            let mut words = Vec::new();
            let outcome = git(
                guest,
                user,
                &["config", "--global", "--", key, value],
                &mut words,
            )?;
            if outcome != Outcome::Exited(Exit::Code(0)) {
                return Err(Error::Call(lib_guest::CallError {
                    kind: CallErrorKind::Failed,
                    message: format!(
                        "the guest's git could not set {key}: {}",
                        String::from_utf8_lossy(&words)
                    ),
                }));
            }
            told = Told::Set;
        }
        Ok(told)
    }
}

/// Tells the guest's git who the owner of a repository is. That it cannot be told keeps nobody from working.
pub fn introduce(guest: &Guest, source: &Path, user: Option<&str>, note: &dyn Fn(&str)) {
    let told = Identity::of_host(Some(source))
        .map_err(|error| error.to_string())
        .and_then(|identity| {
            identity
                .tell(guest, user)
                .map_err(|error| error.to_string())
        });
    if let Err(words) = told {
        note(&format!(
            "the guest's git could not be told who you are: {words}   (again: banger-ws sync-keys)"
        ));
    }
}

/// Runs the guest's git where no repository is, and takes what it says.
fn git(
    guest: &Guest,
    user: Option<&str>,
    arguments: &[&str],
    answer: &mut Vec<u8>,
) -> Result<Outcome, Error> {
    let words = ["git"].iter().chain(arguments);
    let exec = Exec {
        argv: words.map(|word| (*word).to_owned()).collect(),
        cwd: Some("/".to_owned()),
        user: user.map(str::to_owned),
        ..Exec::default()
    };
    let mut first = First(answer);
    guest.exec(
        exec,
        Io {
            stdout: Sink::Writer(&mut first),
            timeout: Some(std::time::Duration::from_secs(30)),
            ..Io::default()
        },
    )
}

/// Keeps the beginning and swallows the rest.
struct First<'a>(&'a mut Vec<u8>);

impl io::Write for First<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST_ANSWER.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_the_host_counts() {
        let parse = |text: &str| Identity::parse(text.as_bytes()).values;
        let both = parse("user.name\nA\0user.email\na@b\0user.name\nB \"C\" -x\0");
        assert_eq!(both, [Some("B \"C\" -x".into()), Some("a@b".into())]);
        for nothing in [
            "",
            "user.name\n \0",
            "user.name\na\nb\0",
            "user.namex\na\0",
            "\0\0",
        ] {
            assert_eq!(parse(nothing), [None, None], "{nothing:?}");
        }
        let long = format!("user.email\n{}\0", "x".repeat(LONGEST + 1));
        assert_eq!(parse(&long), [None, None]);
    }

    #[test]
    fn a_repository_may_say_otherwise_than_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let status = Command::new("git")
                .arg("-C")
                .arg(base.path())
                .args(arguments)
                .status();
            assert!(status.unwrap().success());
        };
        git(&["init", "-q"]);
        git(&["config", "user.name", "Of The Repository"]);
        let identity = Identity::of_host(Some(base.path())).unwrap();
        assert_eq!(identity.values[0].as_deref(), Some("Of The Repository"));
    }
}
