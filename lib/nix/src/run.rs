//! Programs of the store that write an image archive, as nixpkgs' `streamLayeredImage` makes them.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use crate::command::last_lines;
use crate::{Error, StorePath};

/// Neither of ours nor of the user's: it has its paths in itself.
const SEARCH_PATH: &str = "/usr/bin:/bin";

/// A program that runs; its standard output is the archive. Killed when this is dropped before the end.
#[derive(Debug)]
pub struct Script {
    path: StorePath,
    child: Child,
    stdout: Option<ChildStdout>,
    said: Option<JoinHandle<Vec<String>>>,
}

impl Script {
    /// Starts it, without arguments or input, and with an environment that says nothing of the user.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be executed.
    pub fn start(path: &StorePath) -> Result<Script, Error> {
        let mut child = Command::new(path.path())
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LANG", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("run", path.path()))?;
        Ok(Script {
            path: path.clone(),
            stdout: child.stdout.take(),
            said: child.stderr.take().map(last_lines),
            child,
        })
    }

    /// What it writes, once.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn output(&mut self) -> io::Result<impl Read + use<>> {
        self.stdout
            .take()
            .ok_or_else(|| io::Error::other("the output was read already"))
    }

    /// Waits for its end, which follows the end of what it writes.
    ///
    /// # Errors
    /// [`Error::Failed`] when it says that what it wrote is not whole.
    pub fn finish(mut self) -> Result<(), Error> {
        let status = self
            .child
            .wait()
            .map_err(Error::io("run", self.path.path()))?;
        if status.success() {
            return Ok(());
        }
        let lines = self.said.take().and_then(|thread| thread.join().ok());
        Err(Error::Failed {
            command: self.path.to_string(),
            status: status.to_string(),
            lines: lines.unwrap_or_default(),
        })
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Both fail for one that has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
