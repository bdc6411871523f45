//! Other programs: by absolute path, with an empty environment, never by a shell, and not for ever.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// They take milliseconds; one that waits for the kernel must not stop everybody for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// How one ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) well: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The first line of what it complains of, after its name.
    pub(crate) fn error(&self, name: &str) -> io::Error {
        let line = self.stderr.lines().next().unwrap_or("it said nothing");
        io::Error::other(format!("{name}: {line}"))
    }
}

/// Runs one to its end.
///
/// # Errors
/// When it cannot be started, or does not end.
pub(crate) async fn run(program: &Path, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(PATIENCE, work).await.map_err(|_| {
        let message = format!("{} does not end", program.display());
        io::Error::new(io::ErrorKind::TimedOut, message)
    })??;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Output {
        well: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// The first place where there is a file.
///
/// # Errors
/// `NotFound`, with the package that has it.
pub(crate) fn find<'a>(
    mut places: impl Iterator<Item = &'a Path> + Clone,
    package: &str,
) -> io::Result<PathBuf> {
    let first = places.clone().next().unwrap_or(Path::new(package));
    let message = format!("{} is not there: install {package}", first.display());
    places
        .find(|path| path.is_file())
        .map(Path::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, message))
}
