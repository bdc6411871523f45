//! virtiofsd: the server of a directory for kernels without 9P. QEMU's own up to 7.2, and the one in Rust
//! that followed it; both serve one VMM on a socket that they are given, and need no root for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_wire::monitor::{ShareServer, placeholder};

use crate::error::io_error;
use crate::{SharePlan, VmError, program};

const NAME: &str = "virtiofsd";
/// Where distributions have it, which is not on `PATH`: Debian 13 and Fedora, Arch, Debian 12.
const PLACES: [&str; 3] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    /// Of QEMU 7.2's tools/virtiofsd.
    Qemu,
    /// gitlab.com/virtio-fs/virtiofsd.
    Rust,
}

/// One that is installed.
#[derive(Debug, Clone)]
pub(crate) struct Virtiofsd {
    program: PathBuf,
    flavour: Flavour,
}

impl Virtiofsd {
    /// Looks on `PATH`, then where distributions have it.
    ///
    /// # Errors
    /// [`VmError::NoVirtiofsd`].
    pub(crate) fn find() -> Result<Virtiofsd, VmError> {
        let mut places = PLACES.iter().map(Path::new);
        let program = program::find(NAME).or_else(|_| {
            places
                .find_map(|place| program::helper(place.to_owned()).ok())
                .ok_or(VmError::NoVirtiofsd)
        })?;
        let output = Command::new(&program)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(io_error("run", &program))?;
        let flavour = flavour(&String::from_utf8_lossy(&output.stdout));
        Ok(Virtiofsd { program, flavour })
    }

    /// What the monitor has to start for a share.
    pub(crate) fn server(&self, share: &SharePlan) -> ShareServer {
        let (socket, directory) = (placeholder::SOCKET, placeholder::DIRECTORY);
        // The namespace has been made for it; within, it confines itself to the directory.
        let arguments = match self.flavour {
            Flavour::Qemu => vec![
                "-f".to_owned(),
                format!("--fd={socket}"),
                "--rlimit-nofile=0".to_owned(),
                "-o".to_owned(),
                format!("source={directory}"),
                "-o".to_owned(),
                "sandbox=namespace,cache=auto,log_level=warn".to_owned(),
            ],
            Flavour::Rust => vec![
                format!("--fd={socket}"),
                format!("--shared-dir={directory}"),
                "--rlimit-nofile=0".to_owned(),
                "--sandbox=namespace".to_owned(),
                "--cache=auto".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        };
        ShareServer {
            source: share.source.clone(),
            read_only: share.read_only,
            program: self.program.clone(),
            arguments,
        }
    }
}

/// QEMU's names its protocol: `using FUSE kernel interface version 7.36`.
fn flavour(version: &str) -> Flavour {
    match version.contains("FUSE kernel interface") {
        true => Flavour::Qemu,
        false => Flavour::Rust,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_wire::config::ShareKind;

    #[test]
    fn each_flavour_is_told_the_same_in_its_own_words() {
        let share = SharePlan {
            source: "/a,b".into(),
            path: "/src".into(),
            tag: "t".into(),
            read_only: true,
            kind: ShareKind::Virtiofs,
        };
        for (version, word) in [
            (
                "virtiofsd version 7.2.22 (Debian)\nusing FUSE kernel interface version 7.36\n",
                "source={directory}",
            ),
            ("virtiofsd 1.13.0\n", "--shared-dir={directory}"),
        ] {
            let server = Virtiofsd {
                program: "/v".into(),
                flavour: flavour(version),
            }
            .server(&share);
            assert!(server.read_only && server.source == Path::new("/a,b"));
            assert!(server.arguments.iter().any(|argument| argument == word));
            assert!(server.arguments.contains(&"--fd={socket}".to_owned()));
        }
    }
}
