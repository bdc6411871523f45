//! mmdebstrap(1): a minimal root file system as a tar stream.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use lib_model::{Progress, Step};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, geteuid};

use crate::program::{MMDEBSTRAP, NEWUIDMAP};
use crate::{DistroError, RootTarRequest, apt, host};

/// Lines of standard error to keep.
const KEPT: usize = 40;
/// The host's own; the guest gets its own at boot. A constant, the one shell text there is.
const FORGET_HOST: &str = r#"rm -f "$1/etc/hostname" "$1/etc/resolv.conf""#;

/// The tar stream of a root file system that is being made. Its end is reached only if the
/// program that makes it succeeded; dropped before, the program ends and removes what it has.
pub struct RootTar {
    child: Child,
    stdout: ChildStdout,
    stderr: Option<JoinHandle<Vec<String>>>,
    step: Box<dyn Step>,
    source: String,
    reference: String,
    finished: bool,
    /// Files to add are read from here until the end.
    _files: tempfile::TempDir,
}

/// Starts to make a root file system from the packages of the host's distribution.
///
/// # Errors
/// Before the start: a missing tool, empty package lists, a request that is not valid. What goes
/// wrong later arrives as an error of the reader.
pub fn root_tar(request: &RootTarRequest, progress: &dyn Progress) -> Result<RootTar, DistroError> {
    request.check()?;
    let host = host()?;
    let suite = request
        .suite
        .clone()
        .unwrap_or_else(|| host.codename.clone());
    let mut command = MMDEBSTRAP.command()?;
    command.args(["--variant=minbase", "--format=tar"]);
    if geteuid().is_root() {
        command.arg("--mode=root");
    } else {
        check_unprivileged()?;
        command.arg("--mode=unshare");
    }
    if !request.include.is_empty() {
        command.arg(format!("--include={}", request.include.join(",")));
    }
    let files = add_files(request, &mut command)?;
    command.arg("--customize-hook").arg(FORGET_HOST);
    let own = request.mirror.is_none() && suite == host.codename;
    command.args(["--", &*suite, "-"]);
    if own {
        let (lines, newest) = apt::sources(&host)?;
        command.args(lines);
        if let Some(seconds) = newest {
            // Makes the same packages give the same bytes.
            command.env("SOURCE_DATE_EPOCH", seconds.to_string());
        }
    }
    command.args(&request.mirror);
    for (name, value) in apt::proxies()? {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let step = progress.step(&format!("making {suite} from its packages"), None);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| MMDEBSTRAP.not_started(error))?;
    let piped = "standard output and error are pipes";
    let (stdout, stderr) = (
        child.stdout.take().expect(piped),
        child.stderr.take().expect(piped),
    );
    Ok(RootTar {
        child,
        stdout,
        stderr: Some(std::thread::spawn(|| last_lines(stderr))),
        step,
        source: format!("mmdebstrap {suite}"),
        reference: if own {
            host.reference
        } else {
            format!("{}:{suite}", host_id(&host.reference))
        },
        finished: false,
        _files: files,
    })
}

impl RootTar {
    /// Where it comes from, for people: `mmdebstrap bookworm`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What an image of it would be called: `debian:12`.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    fn finish(&mut self) -> Result<(), DistroError> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        let status = self
            .child
            .wait()
            .map_err(|error| MMDEBSTRAP.not_started(error))?;
        let lines = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        if status.success() {
            self.step.done("");
            Ok(())
        } else {
            Err(MMDEBSTRAP.failed(status, lines))
        }
    }
}

impl Read for RootTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stdout.read(buffer)?;
        self.step.advance(count as u64);
        if count == 0 && !buffer.is_empty() {
            self.finish().map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

impl Drop for RootTar {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // It ends its workers and removes its temporary directory on SIGTERM.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        // A tar that blocks on a full pipe would keep it from ending.
        let _ = io::copy(&mut self.stdout, &mut io::sink());
        let _ = self.child.wait();
    }
}

/// Without root, mmdebstrap needs a range of ids to own files with.
fn check_unprivileged() -> Result<(), DistroError> {
    NEWUIDMAP.find()?;
    let uid = geteuid();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if !has_range(&text, uid, name.as_deref()) {
            let user = name.unwrap_or_else(|| uid.to_string());
            return Err(DistroError::NoSubordinateIds { file, user });
        }
    }
    Ok(())
}

/// subuid(5): `name or id:start:count`.
fn has_range(text: &str, uid: Uid, name: Option<&str>) -> bool {
    text.lines()
        .filter_map(|line| line.split(':').next())
        .any(|user| Some(user) == name || user == uid.to_string())
}

fn add_files(
    request: &RootTarRequest,
    command: &mut Command,
) -> Result<tempfile::TempDir, DistroError> {
    let directory = tempfile::Builder::new().prefix("banger-files-").tempdir();
    let base = std::env::temp_dir();
    let failed = |source| DistroError::Io {
        action: "write in",
        path: base.clone(),
        source,
    };
    let directory = directory.map_err(failed)?;
    for (index, file) in request.files.iter().enumerate() {
        let path = directory.path().join(index.to_string());
        std::fs::File::create_new(&path)
            .and_then(|mut output| output.write_all(&file.content))
            .map_err(failed)?;
        // A special hook of mmdebstrap, which splits it into words: neither path has blanks.
        let path = path.to_string_lossy().into_owned();
        if path.contains(|c: char| c.is_whitespace() || "'\"\\".contains(c)) {
            return Err(DistroError::BadRequest {
                what: "temporary directory",
                value: path,
            });
        }
        command
            .arg("--customize-hook")
            .arg(format!("upload {path} {}", file.path));
    }
    Ok(directory)
}

fn host_id(reference: &str) -> &str {
    reference.split(':').next().unwrap_or(reference)
}

fn last_lines(stderr: impl Read) -> Vec<String> {
    let mut lines = std::collections::VecDeque::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        // A progress bar rewrites its line: the last state counts.
        let text = String::from_utf8_lossy(&line)
            .trim_end_matches('\r')
            .to_owned();
        lines.push_back(text.rsplit('\r').next().unwrap_or_default().to_owned());
        if lines.len() > KEPT {
            lines.pop_front();
        }
    }
    lines.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_id() {
        let text = "dev:100000:65536\n1001:165536:65536\n";
        for (uid, name, expected) in [
            (1000, Some("dev"), true),
            (1001, None, true),
            (1002, Some("other"), false),
        ] {
            assert_eq!(has_range(text, Uid::from_raw(uid), name), expected, "{uid}");
        }
    }

    #[test]
    fn the_end_of_standard_error_is_kept() {
        let text: String = (0..100).map(|n| format!("10%\rline {n}\r\n")).collect();
        let lines = last_lines(text.as_bytes());
        assert_eq!((lines.len(), &*lines[39]), (40, "line 99"));
    }
}
