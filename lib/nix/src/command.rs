//! The `nix` command of this machine.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use banger_failpoint::point;
use lib_model::Progress;
use serde_json::Value;

use crate::registration::{PathInfo, parse};
use crate::{Error, Installable, StorePath};

/// Where it is when PATH does not say: NixOS, and Nix on other distributions.
const PLACES: [&str; 3] = [
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
    "/usr/bin",
];
/// Passed on: who asks and where their settings are (nix.conf(5), "Common environment variables" of nix(1)), and
/// how the network is reached. PATH, because Nix finds git and ssh by it.
const PASSED_ON: [&str; 32] = [
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "XDG_DATA_HOME",
    "XDG_DATA_DIRS",
    "XDG_RUNTIME_DIR",
    "NIX_CONF_DIR",
    "NIX_USER_CONF_FILES",
    "NIX_CONFIG",
    "NIX_PATH",
    "NIX_REMOTE",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_STATE_DIR",
    "NIX_LOG_DIR",
    "NIX_DATA_DIR",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "SSH_AUTH_SOCK",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];
/// Flakes need none of it in nix.conf.
const FEATURES: [&str; 2] = ["--extra-experimental-features", "nix-command flakes"];
/// Paths given to one command; the kernel takes about 2 MiB of arguments (execve(2)).
const PATHS: usize = 2000;
/// Of standard output. A closure of 100,000 paths is registered in some 50 MB.
const LARGEST_ANSWER: u64 = 256 << 20;
/// Of standard error, for an error.
const LINES: usize = 20;
const LONGEST_LINE: u64 = 4096;

/// The command, found once.
#[derive(Debug, Clone)]
pub struct Nix {
    directory: PathBuf,
}

impl Nix {
    /// Finds it in the directories of PATH and some others.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn find() -> Result<Nix, Error> {
        Nix::find_in(std::env::var_os("PATH").as_deref())
    }

    /// Relative directories do not count: what they hold depends on where one is.
    fn find_in(path: Option<&OsStr>) -> Result<Nix, Error> {
        let listed = path.into_iter().flat_map(std::env::split_paths);
        let directory = listed
            .chain(PLACES.map(PathBuf::from))
            .filter(|directory| directory.is_absolute())
            .find(|directory| directory.join("nix").is_file());
        directory
            .map(|directory| Nix { directory })
            .ok_or(Error::Missing)
    }

    /// Builds an installable, or fetches it, and returns its main output. The links at `link` keep all outputs
    /// from being collected, as long as they are there.
    ///
    /// # Errors
    /// [`Error::Failed`] with Nix's own last lines.
    pub fn build(
        &self,
        installable: &Installable,
        link: &Path,
        progress: &dyn Progress,
    ) -> Result<StorePath, Error> {
        let what = format!("nix build {}", installable.as_str());
        let step = progress.step(&what, None);
        let mut command = self.command("nix");
        command
            .arg("build")
            .args(FEATURES)
            .args(["--json", "--out-link"])
            .arg(link)
            .args(["--", installable.as_str()]);
        point("nix.build").map_err(Error::io("run", "nix"))?;
        let answer = self.output(&mut command, what)?;
        let output = main_output(&answer)?;
        step.done("");
        Ok(output)
    }

    /// `meta.mainProgram` of an installable; none when it has none, or is no package.
    pub fn main_program(&self, installable: &Installable) -> Option<String> {
        if Path::new(installable.as_str()).is_absolute() {
            return None;
        }
        let mut command = self.command("nix");
        command
            .arg("eval")
            .args(FEATURES)
            .args(["--json", "--apply", "d: d.meta.mainProgram or null"])
            .args(["--", installable.as_str()]);
        let answer = self.output(&mut command, "nix eval".to_owned()).ok()?;
        serde_json::from_slice::<Option<String>>(&answer)
            .ok()
            .flatten()
    }

    /// Everything that `paths` need to run, with what the database of the store has on it, sorted.
    ///
    /// # Errors
    /// [`Error::Failed`] when the store knows one of them no longer.
    pub fn closure(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, Error> {
        let mut command = self.command("nix-store");
        command.arg("-qR").args(paths.iter().map(StorePath::as_str));
        let listed = self.output(&mut command, "nix-store -qR".to_owned())?;
        let listed = text(&listed, "nix-store -qR")?;
        let mut all = listed
            .lines()
            .map(StorePath::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        all.sort();
        all.dedup();
        let mut registered = Vec::with_capacity(all.len());
        for some in all.chunks(PATHS) {
            let mut command = self.command("nix-store");
            command
                .arg("--dump-db")
                .args(some.iter().map(StorePath::as_str));
            let dump = self.output(&mut command, "nix-store --dump-db".to_owned())?;
            registered.extend(parse(text(&dump, "nix-store --dump-db")?)?);
        }
        registered.sort_by(|a, b| a.path.cmp(&b.path));
        match registered.iter().map(|info| &info.path).eq(&all) {
            true => Ok(registered),
            false => Err(Error::Answer {
                command: "nix-store --dump-db",
                reason: "it is about other paths than were asked for".to_owned(),
            }),
        }
    }

    /// Registers `link`, which is made to lead to `path`, as a root of the garbage collector. Whoever removes the
    /// link ends the registration: the collector drops what leads nowhere.
    ///
    /// # Errors
    /// [`Error::Failed`], also when the path is gone.
    pub fn add_root(&self, link: &Path, path: &StorePath) -> Result<(), Error> {
        let mut command = self.command("nix-store");
        command
            .args(["--realise", path.as_str(), "--add-root"])
            .arg(link);
        point("nix.root").map_err(Error::io("create", link))?;
        self.output(&mut command, format!("nix-store --realise {path}"))?;
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.directory.join(name));
        command.env_clear().env("LANG", "C.UTF-8");
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What it writes to standard output; what it says besides is kept for an error.
    fn output(&self, command: &mut Command, what: String) -> Result<Vec<u8>, Error> {
        let program = PathBuf::from(command.get_program());
        let mut child = command.spawn().map_err(Error::io("run", &program))?;
        let last = child.stderr.take().map(last_lines);
        let mut answer = Vec::new();
        let read = match child.stdout.take() {
            Some(stdout) => stdout.take(LARGEST_ANSWER + 1).read_to_end(&mut answer),
            None => Ok(0),
        };
        let too_long = answer.len() as u64 > LARGEST_ANSWER;
        if read.is_err() || too_long {
            // It may have ended by itself.
            let _ = child.kill();
        }
        let status = child.wait().map_err(Error::io("run", &program))?;
        let lines = last.and_then(|thread| thread.join().ok());
        read.map_err(Error::io("read from", &program))?;
        if too_long {
            return Err(Error::Answer {
                command: "nix",
                reason: format!("it is longer than {LARGEST_ANSWER} bytes"),
            });
        }
        if status.success() {
            return Ok(answer);
        }
        Err(Error::Failed {
            command: what,
            status: status.to_string(),
            lines: lines.unwrap_or_default(),
        })
    }
}

/// Reads a program's standard error to its end and keeps the last lines.
pub(crate) fn last_lines(stderr: ChildStderr) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut lines = VecDeque::new();
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
            {
                Ok(0) | Err(_) => return lines.into(),
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if !text.trim().is_empty() {
                if lines.len() == LINES {
                    lines.pop_front();
                }
                lines.push_back(text.to_owned());
            }
        }
    })
}

fn text<'a>(bytes: &'a [u8], command: &'static str) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|error| Error::Answer {
        command,
        reason: error.to_string(),
    })
}

/// Of the list that `nix build --json` prints: one entry for each installable. A store path is there as a string, or
/// as an object with a `path`, whatever the version.
fn main_output(answer: &[u8]) -> Result<StorePath, Error> {
    let wrong = |reason: String| Error::Answer {
        command: "nix build",
        reason,
    };
    let built: Vec<Value> = serde_json::from_slice(answer).map_err(|e| wrong(e.to_string()))?;
    let [built] = &built[..] else {
        return Err(wrong(format!(
            "it is about {} things, not one",
            built.len()
        )));
    };
    let path = match built {
        Value::String(path) => Some(path.as_str()),
        built => {
            let outputs = built.get("outputs").and_then(Value::as_object);
            let main = outputs.and_then(|all| all.get("out").or_else(|| all.values().next()));
            main.or_else(|| built.get("path")).and_then(Value::as_str)
        }
    };
    StorePath::try_from(path.ok_or_else(|| wrong("it names no output".to_owned()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_model::Diagnose;

    const PATH: &str = "/nix/store/nhsxmhkvwmncasv5wl2d304b3rd0inf5-hello-1.0";

    #[test]
    fn the_main_output_is_found_in_every_form() {
        for text in [
            format!(r#"[{{"drvPath":"x","outputs":{{"dev":"/nix/store/y","out":"{PATH}"}}}}]"#),
            format!(r#"[{{"outputs":{{"bin":"{PATH}"}}}}]"#),
            format!(r#"[{{"path":"{PATH}"}}]"#),
            format!(r#"["{PATH}"]"#),
        ] {
            assert_eq!(main_output(text.as_bytes()).unwrap().as_str(), PATH);
        }
        for bad in [
            "",
            "[]",
            "{}",
            "[1]",
            r#"[{"path":"/etc"}]"#,
            r#"["a","b"]"#,
        ] {
            assert!(main_output(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn relative_directories_of_the_path_do_not_count() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("nix"), "").unwrap();
        let found = Nix::find_in(Some(place.path().as_os_str())).unwrap();
        assert_eq!(found.directory, place.path());
        let relative = Nix::find_in(Some(OsStr::new(".:bin")));
        // A machine with Nix has it elsewhere.
        if let Ok(found) = &relative {
            assert!(found.directory.is_absolute());
        }
        assert!(Error::Missing.hint().unwrap().contains("nix-bin"));
    }

    #[test]
    fn an_error_has_the_last_lines_only() {
        let nix = Nix {
            directory: "/bin".into(),
        };
        let mut shell = nix.command("sh");
        shell.args([
            "-c",
            "for n in $(seq 60); do echo line $n >&2; done; exit 1",
        ]);
        let error = nix.output(&mut shell, "nix build x".into()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("nix build x failed (exit status: 1)\n  line 41\n"),
            "{text}"
        );
        assert!(text.ends_with("\n  line 60"), "{text}");
    }
}
