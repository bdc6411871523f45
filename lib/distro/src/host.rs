//! Which distribution this machine runs, from os-release(5).

use std::path::Path;

use crate::DistroError;
use crate::error::INSTEAD;

const FILE: &str = "/etc/os-release";

/// Distributions with a client that this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian itself.
    Debian,
    /// Ubuntu itself.
    Ubuntu,
}

/// The distribution of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDistribution {
    /// Whose archive and clients.
    pub family: Family,
    /// Code name of the release, such as `bookworm`.
    pub codename: String,
    /// For people: `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
    /// As in an image reference: `debian:12`.
    pub reference: String,
}

impl Family {
    /// As the archive's Release files name their origin.
    pub(crate) fn origin(self) -> &'static str {
        match self {
            Family::Debian => "Debian",
            Family::Ubuntu => "Ubuntu",
        }
    }

    /// The package that depends on the newest kernel made for VMs.
    pub(crate) fn kernel(self) -> &'static str {
        match self {
            Family::Debian => "linux-image-cloud-amd64",
            Family::Ubuntu => "linux-image-virtual",
        }
    }

    /// Keys of the archive, where they are not trusted by default (Debian 13 and later).
    pub(crate) fn keyring(self) -> &'static str {
        match self {
            Family::Debian => "/usr/share/keyrings/debian-archive-keyring.gpg",
            Family::Ubuntu => "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        }
    }
}

/// The distribution of this machine.
///
/// # Errors
/// [`DistroError::Unsupported`], with what to do instead, for all but Debian and Ubuntu.
pub fn host() -> Result<HostDistribution, DistroError> {
    let path = Path::new(FILE);
    let text = std::fs::read_to_string(path).map_err(|error| DistroError::Unknown {
        path: path.to_owned(),
        source: Some(error),
    })?;
    parse(&text)
}

fn parse(os_release: &str) -> Result<HostDistribution, DistroError> {
    let field = |name: &str| -> Option<String> {
        os_release.lines().find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix('=')?;
            let value = value.trim_matches(['"', '\'']);
            (!value.is_empty()).then(|| value.to_owned())
        })
    };
    let unknown = || DistroError::Unknown {
        path: FILE.into(),
        source: None,
    };
    let id = field("ID").ok_or_else(unknown)?;
    let name = field("PRETTY_NAME")
        .or_else(|| field("NAME"))
        .unwrap_or_else(|| id.clone());
    let unsupported = |instead: &str| DistroError::Unsupported {
        name: name.clone(),
        instead: instead.to_owned(),
    };
    let family = match &*id {
        "debian" => Family::Debian,
        "ubuntu" => Family::Ubuntu,
        "nixos" => {
            return Err(unsupported(
                "the NixOS default is not available yet; use banger-image pull debian:12, and \
                 banger-image kernel import /run/current-system/kernel --modules \
                 /run/current-system/kernel-modules/lib/modules/$(uname -r)",
            ));
        }
        _ => return Err(unsupported(INSTEAD)),
    };
    // Debian's testing and unstable may lack the code name in older versions.
    let codename = field("VERSION_CODENAME")
        .or_else(|| (family == Family::Debian).then(|| "sid".to_owned()))
        .ok_or_else(unknown)?;
    let version = field("VERSION_ID").unwrap_or_else(|| codename.clone());
    Ok(HostDistribution {
        family,
        reference: format!("{id}:{version}"),
        codename,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_model::Diagnose;

    #[test]
    fn debian_and_ubuntu_are_known() {
        for (text, family, codename, reference) in [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n\
                 VERSION_CODENAME=bookworm\nID=debian\n",
                Family::Debian,
                "bookworm",
                "debian:12",
            ),
            (
                "ID=ubuntu\nID_LIKE=debian\nVERSION_ID='24.04'\nVERSION_CODENAME=noble",
                Family::Ubuntu,
                "noble",
                "ubuntu:24.04",
            ),
            ("ID=debian\n", Family::Debian, "sid", "debian:sid"),
        ] {
            let host = parse(text).unwrap();
            assert_eq!((host.family, &*host.codename), (family, codename));
            assert_eq!(host.reference, reference);
        }
    }

    #[test]
    fn others_are_named_and_told_what_to_do() {
        let fedora = parse("ID=fedora\nPRETTY_NAME=\"Fedora Linux 43\"\n").unwrap_err();
        assert!(fedora.to_string().contains("Fedora Linux 43"), "{fedora}");
        assert!(fedora.hint().unwrap().contains("banger-image pull"));
        let nixos = parse("ID=nixos\nNAME=NixOS\n").unwrap_err();
        assert!(nixos.hint().unwrap().contains("not available yet"));
        assert!(matches!(
            parse("NAME=x\n"),
            Err(DistroError::Unknown { .. })
        ));
    }
}
