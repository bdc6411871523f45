//! References to images in registries, as Docker and Podman write them.
//!
//! An own parser, because the grammar's usual regular expression costs tens of milliseconds to
//! compile, which is more than a whole command may take to start.

use serde::{Deserialize, Serialize};

use crate::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";

/// `registry/repository[:tag][@digest]`, complete: short names are expanded when parsed
/// (`alpine` is `docker.io/library/alpine:latest`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a reference was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl crate::Diagnose for ReferenceError {
    fn exit(&self) -> crate::Exit {
        crate::Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(
            "references look like alpine:3.20, registry.example:5000/team/app:v1 or app@sha256:…"
                .into(),
        )
    }
}

impl Reference {
    /// Host and optional port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Tag; `latest` when neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Pinned digest of the manifest or index.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The shortest text that means the same: `alpine:3.20` for Docker's official images.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }

    /// The registry is on this machine: `localhost` or a loopback address, with or without port.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.registry,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl TryFrom<&str> for Reference {
    type Error = ReferenceError;

    fn try_from(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason| {
            Err(ReferenceError {
                text: text.to_owned(),
                reason,
            })
        };
        if text.is_empty() {
            return fail("it is empty");
        }
        if text.len() > 512 {
            return fail("it is longer than 512 characters");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => match Digest::try_from(digest) {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => return fail("what follows @ is not a sha256 digest"),
            },
            None => (text, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, path)
            }
            _ => (DEFAULT_REGISTRY, rest),
        };
        if !valid_registry(registry) {
            return fail("the registry is not a host name with an optional port");
        }
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return fail("a tag has 1 to 128 letters, digits and . _ -, and starts with no . or -");
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if !repository.split('/').all(valid_component) {
            return fail("repository names are lower-case words joined by . _ - and /");
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

fn valid_registry(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port))
            if !name.ends_with(':') && (!name.contains(':') || name.ends_with(']')) =>
        {
            (name, Some(port))
        }
        _ => (host, None),
    };
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    let name_ok = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    port_ok && name_ok
}

fn valid_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Lower-case letters and digits, joined by `.`, `_`, `__` or dashes (distribution-spec).
fn valid_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || b"._-".contains(b))
        && !component.contains("..")
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Reference::try_from(text.as_str())
    }
}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Reference::try_from(text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_expanded() {
        let hex = "ab".repeat(32);
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine:3.20",
            ),
            ("team/app", "docker.io/team/app:latest", "team/app:latest"),
            ("localhost/app:1", "localhost/app:1", "localhost/app:1"),
            (
                "127.0.0.1:5000/debian:12",
                "127.0.0.1:5000/debian:12",
                "127.0.0.1:5000/debian:12",
            ),
            (
                "[::1]:5000/a/b",
                "[::1]:5000/a/b:latest",
                "[::1]:5000/a/b:latest",
            ),
            (
                "ghcr.io/a/b__c-d.e",
                "ghcr.io/a/b__c-d.e:latest",
                "ghcr.io/a/b__c-d.e:latest",
            ),
        ] {
            let reference = Reference::try_from(text).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::try_from(full), Ok(reference));
        }
        let pinned = Reference::try_from(format!("app@sha256:{hex}").as_str()).unwrap();
        assert_eq!(
            (pinned.tag(), pinned.digest().map(Digest::hex)),
            (None, Some(&*hex))
        );
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            ":tag",
            "/app",
            "UPPER",
            "a//b",
            "app:",
            "app:-x",
            "app@sha256:12",
            "a b",
            "host:99999/x",
            "exa_mple.com/x",
            "../etc",
            "app:tag:tag",
            "-x/y.z/..",
            "[::g]:1/x",
            "app@md5:aa",
            "a.b/",
        ] {
            assert!(Reference::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_recognised() {
        for (text, expected) in [
            ("127.0.0.1:5000/x", true),
            ("127.9.9.9/x", true),
            ("localhost:5000/x", true),
            ("[::1]:5000/x", true),
            ("localhost.evil.example/x", false),
            ("10.0.0.1:5000/x", false),
            ("alpine", false),
        ] {
            assert_eq!(
                Reference::try_from(text).unwrap().is_loopback(),
                expected,
                "{text}"
            );
        }
    }
}
