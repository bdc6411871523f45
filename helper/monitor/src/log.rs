//! `vmm.log`: what the VMM prints, and the monitor's own lines, which begin with `monitor: `.

use std::error::Error;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::files;

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
