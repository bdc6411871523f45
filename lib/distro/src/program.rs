//! External programs: found in a fixed list, run with a cleared environment.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::DistroError;

const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
const SEARCH_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Passed on: where to keep files, and how to reach the network.
const PASSED_ON: [&str; 10] = [
    "HOME",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "all_proxy",
];
/// Lines of standard error that an error shows.
const LINES: usize = 12;

/// A program and the package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const APT_GET: Program = Program {
    name: "apt-get",
    package: "apt",
};
pub(crate) const APT_CACHE: Program = Program {
    name: "apt-cache",
    package: "apt",
};
pub(crate) const APT_CONFIG: Program = Program {
    name: "apt-config",
    package: "apt",
};
pub(crate) const MMDEBSTRAP: Program = Program {
    name: "mmdebstrap",
    package: "mmdebstrap",
};
pub(crate) const NEWUIDMAP: Program = Program {
    name: "newuidmap",
    package: "uidmap",
};

impl Program {
    pub(crate) fn find(self) -> Result<PathBuf, DistroError> {
        DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(self.name))
            .find(|path| path.is_file())
            .ok_or(DistroError::MissingTool {
                tool: self.name,
                package: self.package,
            })
    }

    /// The program with a cleared environment and nothing on standard input.
    pub(crate) fn command(self) -> Result<Command, DistroError> {
        let mut command = Command::new(self.find()?);
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LANG", "C.UTF-8");
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Standard output of a run that succeeds.
    pub(crate) fn output(self, command: &mut Command) -> Result<String, DistroError> {
        let output = command.output().map_err(|error| self.not_started(error))?;
        if !output.status.success() {
            let lines = String::from_utf8_lossy(&output.stderr);
            return Err(self.failed(output.status, lines.lines().map(str::to_owned)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn not_started(self, source: std::io::Error) -> DistroError {
        DistroError::Io {
            action: "run",
            path: self.name.into(),
            source,
        }
    }

    pub(crate) fn failed(
        self,
        status: ExitStatus,
        lines: impl IntoIterator<Item = String>,
    ) -> DistroError {
        let mut lines: Vec<String> = lines.into_iter().filter(|l| !l.trim().is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(LINES));
        DistroError::Failed {
            program: self.name,
            status: status.to_string(),
            lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_model::Diagnose;

    #[test]
    fn a_missing_tool_names_its_package() {
        let gone = Program {
            name: "no-such-tool",
            package: "its-package",
        };
        let error = gone.find().unwrap_err();
        assert_eq!(error.to_string(), "no-such-tool is not installed");
        assert_eq!(
            error.hint().as_deref(),
            Some("sudo apt-get install its-package")
        );
    }

    #[test]
    fn a_failure_shows_the_last_lines() {
        let shell = Program {
            name: "sh",
            package: "dash",
        };
        let mut command = shell.command().unwrap();
        command.args([
            "-c",
            "for n in $(seq 40); do echo line $n >&2; done; exit 3",
        ]);
        let error = shell.output(&mut command).unwrap_err().to_string();
        assert!(
            error.contains("exit status: 3") && error.ends_with("line 40"),
            "{error}"
        );
        assert!(!error.contains("line 28\n"), "{error}");
    }
}
