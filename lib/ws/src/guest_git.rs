//! The guest's own git, run in the guest. The host believes nothing that it says.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use lib_guest::{CallErrorKind, Command, Control, Error, Exec, Exit, Guest, Io, Outcome, Sink};
use lib_vm::Interrupt;

use crate::error::{Result, WsError};

/// A guest's git that takes longer is ended.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// One that is to say a line, and takes longer, is ended.
const LONGEST_LINE: Duration = Duration::from_secs(120);
/// No more is kept of what is to be short.
const SHORT: usize = 4096;
/// One that says more than this, where little is to be said, does not end.
const ENDLESS: usize = 1 << 20;

/// Where and as whom it runs.
pub(crate) struct GuestGit<'a> {
    pub(crate) guest: &'a Guest,
    pub(crate) path: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) interrupt: &'a Interrupt,
}

/// The user's wish to end, for an exec.
struct Wish<'a> {
    interrupt: &'a Interrupt,
    descriptor: BorrowedFd<'a>,
}

impl Control for Wish<'_> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor
    }

    fn next_command(&mut self) -> io::Result<Option<Command>> {
        Ok(self.interrupt.check().err().map(|_| Command::Abandon))
    }
}

/// Keeps the beginning of what is said.
#[derive(Default)]
pub(crate) struct Short {
    kept: Vec<u8>,
    said: usize,
}

impl Write for Short {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.said = self.said.saturating_add(bytes.len());
        if self.said > ENDLESS {
            return Err(io::Error::other("it does not end"));
        }
        let left = SHORT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(left)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where its output goes.
pub(crate) enum Output<'a> {
    /// Nowhere.
    Null,
    /// To a descriptor.
    Fd(BorrowedFd<'a>),
    /// Its beginning is kept.
    Short(&'a mut Short),
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: u8,
    /// What it said on standard error; untrusted.
    pub(crate) words: String,
}

impl GuestGit<'_> {
    /// Whether there is a git that works.
    ///
    /// # Errors
    /// Those of the connection.
    pub(crate) fn is_there(&self) -> Result<bool> {
        let mut out = Short::default();
        let ended = self.exec(
            vec!["git".into(), "--version".into()],
            None,
            Output::Short(&mut out),
        );
        match ended {
            Ok(ended) => Ok(ended.status == 0 && out.kept.starts_with(b"git version")),
            Err(WsError::Guest(Error::Call(error)))
                if matches!(
                    error.kind,
                    CallErrorKind::NotFound | CallErrorKind::NotExecutable
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Runs it in the workspace.
    ///
    /// # Errors
    /// Those of the connection, and a git that is not there.
    pub(crate) fn run(
        &self,
        arguments: &[&str],
        stdin: Option<BorrowedFd<'_>>,
        stdout: Output<'_>,
    ) -> Result<Ended> {
        let mut argv = vec!["git".to_owned(), "-C".to_owned(), self.path.to_owned()];
        argv.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.exec(argv, stdin, stdout)
    }

    /// One line that it prints, if it ends with 0.
    ///
    /// # Errors
    /// Those of the connection.
    pub(crate) fn line(&self, arguments: &[&str]) -> Result<Option<String>> {
        let mut out = Short::default();
        let ended = self.run(arguments, None, Output::Short(&mut out))?;
        let text = String::from_utf8_lossy(&out.kept).trim().to_owned();
        Ok((ended.status == 0 && !text.is_empty()).then_some(text))
    }

    fn exec(
        &self,
        argv: Vec<String>,
        stdin: Option<BorrowedFd<'_>>,
        stdout: Output<'_>,
    ) -> Result<Ended> {
        let mut words = Short::default();
        let exec = Exec {
            argv,
            env: vec![
                ("LC_ALL".into(), "C".into()),
                ("GIT_TERMINAL_PROMPT".into(), "0".into()),
            ],
            cwd: Some("/".into()),
            user: self.user.map(str::to_owned),
            terminal: None,
            stdin: stdin.is_some(),
        };
        let mut wish = self.interrupt.signals().map(|signals| Wish {
            interrupt: self.interrupt,
            descriptor: signals.as_fd(),
        });
        let control: Option<&mut dyn Control> = match &mut wish {
            Some(wish) => Some(wish),
            None => None,
        };
        let (sink, timeout) = match stdout {
            Output::Null => (Sink::Null, LONGEST),
            Output::Fd(fd) => (Sink::Fd(fd), LONGEST),
            Output::Short(short) => (Sink::Writer(short), LONGEST_LINE),
        };
        let io = Io {
            stdin,
            stdout: sink,
            stderr: Sink::Writer(&mut words),
            control,
            timeout: Some(timeout),
        };
        let outcome = self.guest.exec(exec, io).map_err(|error| match error {
            // Only a writer of ours that has heard enough.
            Error::Host { source, .. } if source.kind() == io::ErrorKind::Other => {
                WsError::Refused(format!(
                    "git in the VM says more than {ENDLESS} bytes where a line was asked for"
                ))
            }
            error => error.into(),
        })?;
        let status = match outcome {
            Outcome::Exited(Exit::Code(code)) => code,
            other => other.status(),
        };
        let text = String::from_utf8_lossy(&words.kept);
        let safe = |c: char| if c.is_control() { ' ' } else { c };
        Ok(Ended {
            status,
            words: text.trim().chars().map(safe).collect(),
        })
    }
}

/// A pipe with so little in it that nobody needs to read for it to be written.
pub(crate) fn said(text: &str) -> io::Result<io::PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(text.as_bytes())?;
    Ok(reader)
}
