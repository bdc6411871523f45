//! Manifests and indexes: OCI (image-spec, manifest.md and image-index.md) and docker schema 2.
//!
//! What is read here comes from anybody: every field is checked before it is used.

use std::collections::BTreeMap;

use lib_model::Digest;
use serde::{Deserialize, Serialize};

use crate::{Error, Limits, Platform};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// What we accept from a registry, the best first.
pub(crate) const ACCEPTED: &[&str] = &[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// Annotation of an index entry: its name (image-spec, annotations.md).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of an index entry: its full name, as containerd and docker write it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Type, digest and length of some content (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Descriptor {
            media_type,
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// One image: its configuration and layers, the base first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Several manifests, by platform or name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a registry or layout has under a name.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses and checks a document. `what` is for errors: `the manifest of alpine:3.20`.
    ///
    /// # Errors
    /// [`Error::Schema1`], [`Error::MediaType`], [`Error::Malformed`], [`Error::Limit`].
    pub(crate) fn parse(bytes: &[u8], what: &str, limits: &Limits) -> Result<Self, Error> {
        let malformed = |error: serde_json::Error| Error::malformed(what, error);
        limits.document(what, bytes.len() as u64)?;
        let shape: Shape = serde_json::from_slice(bytes).map_err(malformed)?;
        if shape.schema_version == 1 {
            return Err(Error::Schema1 {
                what: what.to_owned(),
            });
        }
        if shape.schema_version != 2 {
            return Err(Error::malformed(
                what,
                format!("schemaVersion is {}", shape.schema_version),
            ));
        }
        // A document that can be read both ways could mean different images to different tools
        // (CVE-2021-41190).
        let index = match (shape.manifests.is_some(), shape.layers.is_some()) {
            (true, false) => true,
            (false, true) => false,
            (true, true) => return Err(Error::malformed(what, "it has both manifests and layers")),
            (false, false) => {
                return Err(Error::malformed(
                    what,
                    "it has neither manifests nor layers",
                ));
            }
        };
        let expected: [&str; 2] = if index {
            [OCI_INDEX, DOCKER_LIST]
        } else {
            [OCI_MANIFEST, DOCKER_MANIFEST]
        };
        if !shape.media_type.is_empty() && !expected.contains(&shape.media_type.as_str()) {
            return Err(Error::MediaType {
                what: what.to_owned(),
                media_type: shape.media_type,
            });
        }
        if index {
            return Ok(Document::Index(
                serde_json::from_slice(bytes).map_err(malformed)?,
            ));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(malformed)?;
        manifest.check(what, limits)?;
        Ok(Document::Manifest(manifest))
    }
}

impl Manifest {
    /// Its media type, which OCI allows it not to say.
    pub(crate) fn kind(&self) -> &str {
        match self.media_type.as_str() {
            "" => OCI_MANIFEST,
            given => given,
        }
    }

    fn check(&self, what: &str, limits: &Limits) -> Result<(), Error> {
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&self.config.media_type.as_str()) {
            return Err(Error::MediaType {
                what: format!("the configuration in {what}"),
                media_type: self.config.media_type.clone(),
            });
        }
        limits.document(&format!("the configuration in {what}"), self.config.size)?;
        limits.layers(what, self.layers.len())?;
        for layer in &self.layers {
            let name = || format!("layer {} in {what}", layer.digest.short());
            let media_type = layer.media_type.as_str();
            let suffix = media_type
                .strip_prefix(OCI_LAYER)
                .or_else(|| media_type.strip_prefix(DOCKER_LAYER));
            match suffix {
                Some("" | "+gzip" | ".gzip" | "+zstd" | ".zstd") => {}
                _ if media_type.contains("nondistributable") || media_type.contains("foreign") => {
                    return Err(Error::ForeignLayer {
                        what: name(),
                        media_type: media_type.to_owned(),
                    });
                }
                _ => {
                    return Err(Error::MediaType {
                        what: name(),
                        media_type: media_type.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Index {
    /// The first image for `platform`; entries that are no images (attestations) do not count.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] with what there is.
    pub(crate) fn choose(&self, platform: &Platform, what: &str) -> Result<&Descriptor, Error> {
        let images = || {
            self.manifests.iter().filter(|entry| {
                entry.platform.as_ref().is_none_or(|p| p.os != "unknown")
                    && [OCI_MANIFEST, DOCKER_MANIFEST, ""].contains(&entry.media_type.as_str())
            })
        };
        let matching =
            images().find(|entry| entry.platform.as_ref().is_some_and(|p| platform.accepts(p)));
        if let Some(entry) = matching {
            return Ok(entry);
        }
        // An index with one image and no word about its platform: the configuration tells.
        let mut rest = images();
        if let (Some(only), None) = (rest.next(), rest.next())
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let mut available: Vec<String> = images()
            .map(|entry| match &entry.platform {
                Some(platform) => platform.to_string(),
                None => "an unnamed platform".to_owned(),
            })
            .collect();
        available.dedup();
        Err(Error::NoPlatform {
            what: what.to_owned(),
            wanted: platform.to_string(),
            available,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, layer: &str) -> String {
        let digest = "0".repeat(64);
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"sha256:{digest}","size":2}},
            "layers":[{{"mediaType":"{layer}","digest":"sha256:{digest}","size":3}}]}}"#
        )
    }

    fn parse(text: &str) -> Result<Document, Error> {
        Document::parse(text.as_bytes(), "the manifest", &Limits::default())
    }

    #[test]
    fn layers_of_oci_and_docker_are_taken_and_others_named() {
        for layer in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            assert!(matches!(
                parse(&manifest(OCI_CONFIG, layer)),
                Ok(Document::Manifest(_))
            ));
        }
        for layer in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            let error = parse(&manifest(OCI_CONFIG, layer)).unwrap_err();
            assert!(matches!(error, Error::ForeignLayer { .. }), "{error}");
        }
        for layer in [
            "application/vnd.oci.image.layer.v1.tar+xz",
            "text/plain",
            "",
        ] {
            let error = parse(&manifest(OCI_CONFIG, layer)).unwrap_err();
            assert!(
                matches!(&error, Error::MediaType { media_type, .. } if media_type == layer),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for (text, expected) in [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
            (r#"{"schemaVersion":2}"#, "neither manifests nor layers"),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "both"),
            (
                r#"{"schemaVersion":3,"manifests":[]}"#,
                "schemaVersion is 3",
            ),
            (
                r#"{"schemaVersion":2,"mediaType":"text/x","manifests":[]}"#,
                "`text/x`",
            ),
            ("[]", "malformed"),
            (
                &manifest("application/vnd.cncf.helm.config.v1+json", OCI_LAYER),
                "helm",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_missing_platform_lists_what_there_is() {
        let entry = |platform: Option<&str>| {
            let mut d = Descriptor::new(OCI_MANIFEST, Digest::from_sha256([1; 32]), 5);
            d.platform = platform.map(|p| p.parse().unwrap());
            d
        };
        let index = |manifests| Index {
            schema_version: 2,
            media_type: String::new(),
            manifests,
        };
        let two = index(vec![
            entry(Some("linux/arm64")),
            entry(Some("linux/s390x")),
            entry(Some("unknown/unknown")),
        ]);
        let error = two
            .choose(&Platform::default(), "x")
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("only for linux/arm64, linux/s390x"),
            "{error}"
        );
        assert!(two.choose(&"arm64".parse().unwrap(), "x").is_ok());
        assert!(
            index(vec![entry(None)])
                .choose(&Platform::default(), "x")
                .is_ok()
        );
        assert!(index(vec![]).choose(&Platform::default(), "x").is_err());
    }
}
