//! Directories of the host that a guest sees.
//!
//! What is shared is decided once, when the VM is made: links in the path that was typed are resolved then,
//! and the place is recorded. At each start the recorded path must lead to a directory without any link, so
//! that nobody who can write above it (another guest, through a share of its own) moves it elsewhere.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use banger_wire::config::ShareKind;
use banger_wire::monitor::ShareServer;
use lib_kernel::ShareDrivers;
use lib_model::KernelRecord;
use lib_store::{Context, ShareUse, VmRow};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::geteuid;

use crate::guest_config::serial;
use crate::virtiofsd::Virtiofsd;
use crate::{SharePlan, VmError};

/// `HOST:GUEST[:ro|rw]`, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRequest {
    /// On the host.
    pub source: PathBuf,
    /// In the guest, absolute.
    pub path: String,
    /// The guest cannot write.
    pub read_only: bool,
}

/// `NAME:PATH[:ro|rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// The volume; made when it is missing.
    pub name: lib_model::VmName,
    /// In the guest, absolute.
    pub path: String,
    /// The guest cannot write.
    pub read_only: bool,
}

/// Splits `FIRST:PATH[:ro|rw]`; the first part may have colons of its own.
fn split(text: &str, default_read_only: bool) -> Result<(&str, &str, bool), String> {
    let (rest, read_only) = match text.rsplit_once(':') {
        Some((rest, "ro")) => (rest, true),
        Some((rest, "rw")) => (rest, false),
        _ => (text, default_read_only),
    };
    match rest.rsplit_once(':') {
        Some((first, path)) if !first.is_empty() && path.starts_with('/') && path != "/" => {
            Ok((first, path, read_only))
        }
        _ => Err(format!(
            "`{text}` names no absolute path of the guest behind a colon"
        )),
    }
}

impl FromStr for ShareRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, path, read_only) = split(text, true)?;
        Ok(ShareRequest {
            source: PathBuf::from(source),
            path: path.to_owned(),
            read_only,
        })
    }
}

impl FromStr for VolumeRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path, read_only) = split(text, false)?;
        if name.contains('/') {
            return Err(format!(
                "`{name}` is a directory of this machine, not the name of a volume: --mount {text}"
            ));
        }
        Ok(VolumeRequest {
            name: name
                .try_into()
                .map_err(|error: lib_model::NameError| error.to_string())?,
            path: path.to_owned(),
            read_only,
        })
    }
}

/// The host's Nix store, and where a guest sees it alone; NixOS' own VMs have it there, too.
const STORE: &str = "/nix/store";
pub(crate) const STORE_IN_GUEST: &str = "/nix/.ro-store";

/// The host's Nix store, read-only: it is everybody's to read, whoever it belongs to.
///
/// # Errors
/// [`VmError::NoNixStore`].
pub(crate) fn nix_store() -> Result<ShareUse, VmError> {
    let source = Path::new(STORE).canonicalize();
    match source {
        Ok(source) if source.is_dir() => Ok(ShareUse {
            source,
            path: STORE_IN_GUEST.to_owned(),
            read_only: true,
        }),
        _ => Err(VmError::NoNixStore),
    }
}

fn mode(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

impl std::fmt::Display for ShareRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = self.source.display();
        write!(f, "{source}:{}:{}", self.path, mode(self.read_only))
    }
}

impl std::fmt::Display for VolumeRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.path, mode(self.read_only))
    }
}

/// Resolves what was typed and refuses what may not be shared: with `roots`, whatever is not below one of
/// them; without, directories of other users.
///
/// # Errors
/// [`VmError::Share`].
pub(crate) fn resolve(request: &ShareRequest, roots: &[PathBuf]) -> Result<ShareUse, VmError> {
    let refused = |reason: String| VmError::Share {
        path: request.source.clone(),
        reason,
    };
    let source = request
        .source
        .canonicalize()
        .map_err(|error| refused(error.to_string()))?;
    let metadata = source
        .metadata()
        .map_err(|error| refused(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(refused("it is no directory".to_owned()));
    }
    if source.to_str().is_none() {
        return Err(refused("its path is not UTF-8".to_owned()));
    }
    let allowed = match roots {
        [] => geteuid().is_root() || metadata.uid() == geteuid().as_raw(),
        roots => roots
            .iter()
            .filter_map(|root| root.canonicalize().ok())
            .any(|root| source.starts_with(root)),
    };
    if !allowed {
        let leads = if source == request.source {
            String::new()
        } else {
            format!("it leads to {}, which ", source.display())
        };
        return Err(refused(match roots {
            [] => format!("{leads}belongs to another user"),
            _ => format!("{leads}is below none of vm.mount-roots"),
        }));
    }
    Ok(ShareUse {
        source,
        path: request.path.clone(),
        read_only: request.read_only,
    })
}

/// How the guests of a kernel get directories of the host.
///
/// # Errors
/// [`VmError::ShareKernel`] for a kernel that has no driver for it, [`VmError::NoVirtiofsd`].
pub(crate) fn kind(context: &Context, kernel: &KernelRecord) -> Result<ShareKind, VmError> {
    let drivers = lib_kernel::share_drivers(context, kernel)?;
    match drivers {
        // In the VMM's own process, for whatever user of the guest.
        ShareDrivers { plan9: true, .. } => Ok(ShareKind::Plan9),
        ShareDrivers { virtiofs: true, .. } => Virtiofsd::find().map(|_server| ShareKind::Virtiofs),
        ShareDrivers { .. } => Err(VmError::ShareKernel {
            kernel: kernel.name.to_string(),
        }),
    }
}

/// The shares of a VM, for the guest and for the VMM.
///
/// # Errors
/// As [`kind`]; [`VmError::Share`] when one is not what it was.
pub(crate) fn plans(
    context: &Context,
    vm: &VmRow,
    kernel: &KernelRecord,
) -> Result<Vec<SharePlan>, VmError> {
    if vm.spec.shares.is_empty() {
        return Ok(Vec::new());
    }
    let kind = kind(context, kernel)?;
    vm.spec.shares.iter().try_for_each(check_again)?;
    let shares = vm.spec.shares.iter().enumerate();
    let shares = shares.map(|(index, share)| SharePlan {
        source: share.source.clone(),
        path: share.path.clone(),
        tag: serial::share(index),
        read_only: share.read_only,
        kind,
    });
    Ok(shares.collect())
}

/// The processes that serve those of them which the VMM does not.
///
/// # Errors
/// [`VmError::NoVirtiofsd`].
pub(crate) fn servers(shares: &[SharePlan]) -> Result<Vec<ShareServer>, VmError> {
    let served = || {
        let shares = shares.iter();
        shares.filter(|share| share.kind == ShareKind::Virtiofs)
    };
    if served().next().is_none() {
        return Ok(Vec::new());
    }
    let virtiofsd = Virtiofsd::find()?;
    Ok(served().map(|share| virtiofsd.server(share)).collect())
}

/// Looks again at the directory that was recorded: no part of its path may have become a link.
///
/// # Errors
/// [`VmError::Share`].
pub(crate) fn check_again(share: &ShareUse) -> Result<(), VmError> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    open(&share.source, how).map_err(|error| VmError::Share {
        path: share.source.clone(),
        reason: match error {
            nix::errno::Errno::ELOOP => {
                "a part of its path has become a symbolic link since the VM was made".to_owned()
            }
            error => error.desc().to_owned(),
        },
    })
}

fn open(path: &Path, how: OpenHow) -> nix::Result<()> {
    openat2(AT_FDCWD.as_fd(), path, how).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_typed_is_split_from_behind() {
        let share: ShareRequest = "/a:b:/src".parse().unwrap();
        assert_eq!(
            (share.source.as_path(), &*share.path, share.read_only),
            (Path::new("/a:b"), "/src", true)
        );
        assert!(!"./x:/src:rw".parse::<ShareRequest>().unwrap().read_only);
        assert!(!"data:/var/data".parse::<VolumeRequest>().unwrap().read_only);
        for wrong in ["", "x", "/a", ":/b", "/a:b", "/a:/", "/a:ro"] {
            assert!(wrong.parse::<ShareRequest>().is_err(), "{wrong}");
        }
        assert!("../x:/b".parse::<VolumeRequest>().is_err());
        for text in ["/a:/b:ro", "/a:/b:rw"] {
            assert_eq!(text.parse::<ShareRequest>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_link_out_of_the_allowed_place_is_refused_then_and_later() {
        let place = tempfile::tempdir().unwrap();
        let base = place.path().canonicalize().unwrap();
        let (allowed, other) = (base.join("allowed"), base.join("other"));
        std::fs::create_dir_all(allowed.join("project")).unwrap();
        std::fs::create_dir(&other).unwrap();
        symlink(&other, allowed.join("out")).unwrap();
        symlink("project", allowed.join("in")).unwrap();
        let roots = [allowed.clone()];
        let request = |path: PathBuf| ShareRequest {
            source: path,
            path: "/src".into(),
            read_only: true,
        };
        for outside in [
            allowed.join("out"),
            other.clone(),
            allowed.join("project/../../other"),
        ] {
            let error = resolve(&request(outside), &roots).unwrap_err().to_string();
            assert!(error.contains("below none of vm.mount-roots"), "{error}");
        }
        let share = resolve(&request(allowed.join("in")), &roots).unwrap();
        assert_eq!(share.source, allowed.join("project"));
        check_again(&share).unwrap();
        // Somebody moves it while the VM does not run.
        std::fs::rename(allowed.join("project"), allowed.join("away")).unwrap();
        assert!(check_again(&share).is_err());
        symlink(&other, allowed.join("project")).unwrap();
        let error = check_again(&share).unwrap_err().to_string();
        assert!(error.contains("has become a symbolic link"), "{error}");
        std::fs::write(allowed.join("file"), "").unwrap();
        let error = resolve(&request(allowed.join("file")), &roots).unwrap_err();
        assert!(error.to_string().contains("no directory"), "{error}");
    }
}
