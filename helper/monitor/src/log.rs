//! `vmm.log`: what the VMM prints, and the monitor's own lines, which begin with `monitor: `.

use std::error::Error;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::files;

/// A longer log is cut to half of this, with each sample of the statistics.
const LIMIT: u64 = 1 << 20;

/// The log; both writers append.
#[derive(Debug)]
pub(crate) struct Log(File);

impl Log {
    /// Begins a fresh log.
    pub(crate) fn create(path: &Path) -> io::Result<Log> {
        files::create(path).map(Log)
    }

    /// The file, for the VMM's standard error.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// Keeps the newer half of a log that has become too long. What the VMM writes meanwhile may be lost.
    pub(crate) fn trim(&mut self) {
        if let Err(error) = self.keep_newer_half() {
            self.line(format_args!("the log cannot be cut: {error}"));
        }
    }

    fn keep_newer_half(&mut self) -> io::Result<()> {
        let length = self.0.metadata()?.len();
        if length <= LIMIT {
            return Ok(());
        }
        let mut newer = vec![0; LIMIT as usize / 2];
        self.0.read_exact_at(&mut newer, length - LIMIT / 2)?;
        self.0.set_len(0)?;
        self.0.write_all(&newer)
    }

    /// One line of ours. A log that cannot be written is no reason to give up a VM.
    pub(crate) fn line(&mut self, message: impl Display) {
        let _ = self.0.write_all(format!("monitor: {message}\n").as_bytes());
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_too_long_keeps_its_newer_half() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmm.log");
        let mut log = Log::create(&path).unwrap();
        for number in 0..200_000 {
            log.0
                .write_all(format!("{number:07}\n").as_bytes())
                .unwrap();
        }
        log.trim();
        log.line("more");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.len() as u64,
            LIMIT / 2 + "monitor: more\n".len() as u64
        );
        assert!(text.ends_with("0199999\nmonitor: more\n"));
    }
}
