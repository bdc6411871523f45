//! What helps against each error, and the status a command ends with.

use std::io;

use lib_model::{Diagnose, Exit};

use crate::{Error, TlsFault, limits};

impl Diagnose for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Store(error) => error.exit(),
            Error::Nix(error) => error.exit(),
            Error::UnknownRepository { .. }
            | Error::UnknownTag { .. }
            | Error::NoPlatform { .. }
            | Error::Offline { .. }
            | Error::NotLocked { .. }
            | Error::NotSelected { .. } => Exit::NotFound,
            Error::Io {
                action: "open",
                source,
                ..
            } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Error::Platform(_)
            | Error::SeveralImages { .. }
            | Error::OptionUnused { .. }
            | Error::NotEmpty(_)
            | Error::NotPulled { .. }
            | Error::OptionValue { .. } => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Store(error) => return error.hint(),
            Error::Nix(error) => return error.hint(),
            Error::Unauthorized { registry, .. } | Error::Denied { registry, .. } => format!(
                "podman login {registry}   (or docker login; the files read are \
                 $REGISTRY_AUTH_FILE, containers/auth.json and ~/.docker/config.json)"
            ),
            Error::CredentialHelper {
                program, server, ..
            } => format!("echo {server} | {program} get   (asks it by hand)"),
            Error::UnknownRepository { .. } => {
                "check the spelling; registries also say this of repositories that need a login"
                    .into()
            }
            Error::UnknownTag { what, .. } => match what.rsplit_once(' ') {
                Some((_, reference)) if reference.contains('/') && !reference.contains('@') => {
                    format!("skopeo list-tags docker://{}", untagged(reference))
                }
                _ => return None,
            },
            Error::Status { .. } => "the registry has a problem; try again later".into(),
            Error::Connection {
                registry,
                refused: true,
                ..
            } => {
                format!("is the registry running, and is {registry} its address?")
            }
            Error::Connection { .. } => {
                "try again; the layers that arrived are kept and not downloaded twice".into()
            }
            Error::Tls {
                registry,
                fault: TlsFault::UnknownCa,
                ..
            } => format!(
                "--ca-file FILE with the CA certificate of {registry} (or registry.ca-files in the \
                 configuration, or /etc/containers/certs.d/{registry}/ca.crt)"
            ),
            Error::Tls {
                fault: TlsFault::Certificate,
                ..
            } => "the registry needs a valid certificate for this name".into(),
            Error::Tls {
                registry,
                fault: TlsFault::Protocol,
                ..
            } => {
                format!("if {registry} speaks no TLS, pass --plain-http {registry}")
            }
            Error::Schema1 { .. } => {
                "push the image again with a current docker, podman or skopeo".into()
            }
            Error::NoPlatform { available, .. } => match &available[..] {
                [] => return None,
                [first, ..] => format!("--platform {first}"),
            },
            Error::SeveralImages { names, .. } | Error::NotSelected { names, .. } => {
                match &names[..] {
                    [] => return None,
                    [first, ..] => format!("--select {first}"),
                }
            }
            Error::Truncated { .. } | Error::DigestMismatch { .. } => {
                "try again; if it persists, the registry or a proxy before it is damaged".into()
            }
            Error::Compression { .. } => {
                "skopeo copy --dest-compress-format zstd makes a copy that works".into()
            }
            Error::NoSpace { .. } => {
                "banger-image cache prune   (or free some space; --no-space-check tries all the same)"
                    .into()
            }
            Error::Offline { what, .. } => format!("banger-image pull {what}   (with the network)"),
            Error::NotLocked { path, reference } => format!(
                "banger-image pull --lock-file {} {reference}   (without --frozen, adds it)",
                path.display()
            ),
            Error::LockDiffers {
                path, reference, ..
            } => format!(
                "banger-image pull --lock-file {} {reference}   (without --frozen, takes the new one)",
                path.display()
            ),
            Error::Limit { unit, found, .. } => return limit(unit, *found),
            Error::Build {
                source: lib_fs::Error::Limit { what, limit: reached },
                ..
            } => return limit(what, reached.saturating_mul(2)),
            Error::NoLayers { source_text, .. } if !source_text.contains(' ') => {
                format!("banger-image pull {source_text}   (brings them again)")
            }
            Error::NotEmpty(_) => "name a directory that is not there yet".into(),
            Error::NotPulled { .. } => {
                "banger-image pull REFERENCE, then export that (a derivation pulls by digest)".into()
            }
            Error::NotAnImage { .. } => {
                "import reads OCI layouts, OCI and docker archives, and tar archives of a root \
                 file system"
                    .into()
            }
            Error::Build {
                source: lib_fs::Error::Write(source),
                ..
            }
            | Error::Io { source, .. }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                "free some disk space, then run it again; what was downloaded whole is kept".into()
            }
            _ => return None,
        };
        Some(hint)
    }
}

/// The flag that raises a limit.
fn limit(unit: &str, found: u64) -> Option<String> {
    let (flag, key, value) = match unit {
        limits::DOWNLOAD => ("--max-download", "download", found.to_string()),
        limits::UNPACKED | "bytes of content" => ("--max-unpacked", "unpacked", "SIZE".to_owned()),
        limits::RATIO => ("--max-ratio", "ratio", "N".to_owned()),
        "entries" => ("--max-entries", "entries", "N".to_owned()),
        _ => return None,
    };
    Some(format!(
        "if you trust it: {flag} {value}   (or limits.{key} in the configuration)"
    ))
}

/// The reference without its tag.
fn untagged(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => reference,
    }
}
