//! Tools that a workspace asks for by mise: installed once for each state of its files, by the guest's own
//! mise, with a log on the host.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lib_guest::{CallErrorKind, Control, Error, Exec, Exit, Guest, Io, Outcome, Sink};
use lib_model::{Diagnose, Exit as Status};

/// What mise reads at the top of a repository.
const FILES: [&str; 3] = ["mise.toml", ".mise.toml", ".tool-versions"];
/// Where its installer puts it, when no PATH leads to it.
const AT_HOME: &str = ".local/bin/mise";
/// A guest can say anything for ever, in bytes.
const LONGEST_LOG: u64 = 4 << 20;
const LONGEST_SUMS: u64 = 4096;
const LONGEST_STAMP: u64 = 16 * 1024;

/// Why the tools are not there.
#[derive(Debug, thiserror::Error)]
pub enum MiseError {
    /// The guest's mise says so.
    #[error("the guest's `mise install` ended with status {status}: {words}")]
    Install {
        /// Its exit status.
        status: u8,
        /// Its last line; untrusted.
        words: String,
        /// Everything it said.
        log: PathBuf,
    },
    /// The guest does not answer.
    #[error("the tools of the workspace could not be installed")]
    Guest(#[from] Error),
    /// A file of the host.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Diagnose for MiseError {
    fn exit(&self) -> Status {
        match self {
            MiseError::Guest(Error::Interrupted) => Status::Interrupted,
            _ => Status::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            MiseError::Install { log, .. } => Some(format!(
                "less {}   (or go on without: --no-bootstrap)",
                log.display()
            )),
            _ => None,
        }
    }
}

/// The workspace whose tools are wanted.
pub struct Tools<'a> {
    /// Its guest.
    pub guest: &'a Guest,
    /// As whom.
    pub user: Option<&'a str>,
    /// Where it is there.
    pub directory: &'a str,
    /// Keeps log and stamp on the host, and goes with the VM.
    pub state: &'a Path,
    /// The user's signals.
    pub control: Option<&'a mut dyn Control>,
}

/// Whether the repository on the host has files of mise's.
pub fn is_wanted(source: &Path) -> bool {
    FILES.iter().any(|name| source.join(name).is_file())
}

impl Tools<'_> {
    /// Installs what is not installed yet; returns the guest's mise, and nothing when there is none or the
    /// workspace has no files of its own for it. `note` hears of what takes long, and where its log is.
    ///
    /// # Errors
    /// See [`MiseError`].
    pub fn install(mut self, note: &dyn Fn(&str)) -> Result<Option<String>, MiseError> {
        let Some(sums) = self.sums()? else {
            return Ok(None);
        };
        let stamp = self.state.join("mise.stamp");
        if let Some(program) = stamped(&stamp, &sums) {
            return Ok(Some(program));
        }
        let Some(program) = self.program()? else {
            return Ok(None);
        };
        let path = self.state.join("mise.log");
        let failed = |source| MiseError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(self.state).map_err(failed)?;
        let mut log = Log::create(&path).map_err(failed)?;
        note(&format!(
            "installing the tools that the workspace asks mise for; log: {}",
            path.display()
        ));
        // Without anything to trust it complains; what matters is whether the next one succeeds.
        self.run(&[&program, "trust", "--all"], &mut log)?;
        let outcome = self.run(&[&program, "install"], &mut log)?;
        if outcome != Outcome::Exited(Exit::Code(0)) {
            return Err(MiseError::Install {
                status: outcome.status(),
                words: log.last_line(),
                log: path,
            });
        }
        write_stamp(&stamp, &program, &sums).map_err(|source| MiseError::Io {
            path: stamp,
            source,
        })?;
        Ok(Some(program))
    }

    /// What the files are in the guest now; none when none is there.
    fn sums(&mut self) -> Result<Option<Vec<u8>>, MiseError> {
        let mut sums = Cut::new(LONGEST_SUMS);
        let mut words = vec!["sha256sum", "--"];
        words.extend(FILES);
        match self.exec(&words, Sink::Writer(&mut sums), Sink::Null) {
            Ok(_) if sums.bytes.is_empty() => Ok(None),
            Ok(_) => Ok(Some(sums.bytes)),
            // Then whoever changes the files has to say so with another mise.
            Err(error) if is_missing(&error) => Ok(Some(b"unknown\n".to_vec())),
            Err(error) => Err(error.into()),
        }
    }

    fn program(&mut self) -> Result<Option<String>, MiseError> {
        let home = self.guest.user(self.user)?.home;
        let at_home = format!("{}/{AT_HOME}", home.trim_end_matches('/'));
        for program in ["mise".to_owned(), at_home] {
            match self.exec(&[&program, "--version"], Sink::Null, Sink::Null) {
                Ok(_) => return Ok(Some(program)),
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn run(&mut self, words: &[&str], log: &mut Log) -> Result<Outcome, MiseError> {
        log.say(&format!("$ {}\n", words.join(" ")));
        let both = log.file.try_clone();
        let mut errors = Log {
            file: both.map_err(|source| MiseError::Io {
                path: self.state.to_owned(),
                source,
            })?,
        };
        Ok(self.exec(words, Sink::Writer(log), Sink::Writer(&mut errors))?)
    }

    fn exec<'s>(
        &'s mut self,
        words: &[&str],
        stdout: Sink<'s>,
        stderr: Sink<'s>,
    ) -> Result<Outcome, Error> {
        let exec = Exec {
            argv: words.iter().map(|word| (*word).to_owned()).collect(),
            env: vec![("MISE_YES".to_owned(), "1".to_owned())],
            cwd: Some(self.directory.to_owned()),
            user: self.user.map(str::to_owned),
            ..Exec::default()
        };
        let control = self.control.as_mut();
        let control = control.map(|control| &mut **control as &mut dyn Control);
        let io = Io {
            stdout,
            stderr,
            control,
            ..Io::default()
        };
        self.guest.exec(exec, io)
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Call(call)
        if matches!(call.kind, CallErrorKind::NotFound | CallErrorKind::NotExecutable))
}

/// The first line is the program, the rest what the files were.
fn stamped(stamp: &Path, sums: &[u8]) -> Option<String> {
    let mut text = Vec::new();
    let file = File::open(stamp).ok()?;
    file.take(LONGEST_STAMP).read_to_end(&mut text).ok()?;
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let program = String::from_utf8(text[..end].to_vec()).ok()?;
    (text[end + 1..] == *sums && !program.is_empty()).then_some(program)
}

fn write_stamp(stamp: &Path, program: &str, sums: &[u8]) -> io::Result<()> {
    let new = stamp.with_extension("new");
    let mut text = format!("{program}\n").into_bytes();
    text.extend(sums);
    fs::write(&new, text)?;
    fs::rename(&new, stamp)
}

/// A file that takes so much of a guest's words, and swallows the rest.
struct Log {
    /// Appends.
    file: File,
}

impl Log {
    fn create(path: &Path) -> io::Result<Log> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create_new(true).mode(0o600);
        Ok(Log {
            file: options.open(path)?,
        })
    }

    fn say(&mut self, text: &str) {
        let _ = self.write_all(text.as_bytes());
    }

    fn last_line(&mut self) -> String {
        let mut end = Vec::new();
        let length = self.file.metadata().map_or(0, |found| found.len());
        let from = SeekFrom::Start(length.saturating_sub(1000));
        let read = self
            .file
            .seek(from)
            .and_then(|_| self.file.read_to_end(&mut end));
        let text = String::from_utf8_lossy(&end);
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        read.map_or("", |_| line.unwrap_or_default()).to_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.metadata()?.len() < LONGEST_LOG {
            self.file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the beginning.
struct Cut {
    bytes: Vec<u8>,
    most: u64,
}

impl Cut {
    fn new(most: u64) -> Cut {
        Cut {
            bytes: Vec::new(),
            most,
        }
    }
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.most.saturating_sub(self.bytes.len() as u64);
        let room = bytes.len().min(usize::try_from(room).unwrap_or(0));
        self.bytes.extend_from_slice(&bytes[..room]);
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
    fn a_stamp_fits_only_what_it_was_made_for() {
        let base = tempfile::tempdir().unwrap();
        let stamp = base.path().join("stamp");
        assert_eq!(stamped(&stamp, b"a\n"), None);
        write_stamp(&stamp, "/root/mise", b"a\n").unwrap();
        assert_eq!(stamped(&stamp, b"a\n"), Some("/root/mise".to_owned()));
        assert_eq!(stamped(&stamp, b"b\n"), None);
        fs::write(&stamp, "").unwrap();
        assert_eq!(stamped(&stamp, b""), None);
    }

    #[test]
    fn a_log_ends_where_it_may_and_knows_its_last_line() {
        let base = tempfile::tempdir().unwrap();
        let mut log = Log::create(&base.path().join("log")).unwrap();
        log.say("first\nthe last words\n\n");
        assert_eq!(log.last_line(), "the last words");
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..10 {
            log.write_all(&piece).unwrap();
        }
        let length = log.file.metadata().unwrap().len();
        assert!(length < LONGEST_LOG + (2 << 20), "{length}");
    }

    #[test]
    fn only_files_count() {
        let base = tempfile::tempdir().unwrap();
        assert!(!is_wanted(base.path()));
        fs::create_dir(base.path().join("mise.toml")).unwrap();
        assert!(!is_wanted(base.path()));
        fs::write(base.path().join(".tool-versions"), "").unwrap();
        assert!(is_wanted(base.path()));
    }
}
