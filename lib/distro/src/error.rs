//! What can go wrong between banger and the host's package archive.

use std::io;
use std::path::PathBuf;

use lib_model::{Diagnose, Exit};

/// Why the distribution's own kernel or root file system could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DistroError {
    /// `/etc/os-release` is missing or says nothing.
    #[error("cannot tell the distribution of this machine from {}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Option<io::Error>,
    },
    /// A distribution that banger has no client for.
    #[error("kernel and image of {name} cannot be made from its own packages")]
    Unsupported {
        /// For people.
        name: String,
        /// What to do instead.
        instead: String,
    },
    /// A program that is not installed.
    #[error("{tool} is not installed")]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// This user has no subordinate ids.
    #[error("{file} has no range for the user {user}, which mmdebstrap needs without root")]
    NoSubordinateIds {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// Name or id.
        user: String,
    },
    /// `apt-get update` never ran here.
    #[error("apt knows no packages of {suite}: its lists are empty")]
    NoLists {
        /// Code name.
        suite: String,
    },
    /// The archive has no such package.
    #[error("apt knows no package {package}")]
    NoPackage {
        /// Its name.
        package: String,
    },
    /// An argument that could mean something else to the client.
    #[error("`{value}` is no {what}")]
    BadRequest {
        /// What it should be.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// A client failed.
    #[error("{program} failed ({status}){}", last_lines(lines))]
    Failed {
        /// The program.
        program: &'static str,
        /// Its exit status.
        status: String,
        /// The last lines that it wrote to standard error.
        lines: Vec<String>,
    },
    /// A client wrote something unexpected.
    #[error("cannot make sense of what {program} says: {output:?}")]
    Confusing {
        /// The program.
        program: &'static str,
        /// What it wrote, shortened.
        output: String,
    },
    /// A file operation or a start failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn last_lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

impl Diagnose for DistroError {
    fn exit(&self) -> Exit {
        match self {
            DistroError::BadRequest { .. } => Exit::Usage,
            DistroError::NoPackage { .. } => Exit::NotFound,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DistroError::Unknown { .. } => Some(INSTEAD.into()),
            DistroError::Unsupported { instead, .. } => Some(instead.clone()),
            DistroError::MissingTool { package, .. } => {
                Some(format!("sudo apt-get install {package}"))
            }
            DistroError::NoSubordinateIds { user, .. } => Some(format!(
                "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            )),
            DistroError::NoLists { .. } | DistroError::NoPackage { .. } => {
                Some("sudo apt-get update".into())
            }
            // Lists that are older than the archive name files that are gone.
            DistroError::Failed { lines, .. } if lines.iter().any(|l| l.contains("404")) => {
                Some("sudo apt-get update   (the package lists are older than the archive)".into())
            }
            _ => None,
        }
    }
}

/// What works on every distribution.
pub(crate) const INSTEAD: &str =
    "banger-image pull debian:12, and banger-image kernel import FILE (a .deb, vmlinuz or vmlinux)";
