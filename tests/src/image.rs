//! OCI images out of layers, and their way into a registry.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::request;
use crate::layer::{Compression, Entry, Layer, sha256, tar_of};
use crate::programs;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Layers, lowest first, and the `config` object of the image configuration.
#[derive(Debug, Clone)]
pub struct Image {
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// `Env`, `Cmd` and so on (image-spec, config.md).
    pub config: Value,
}

impl Image {
    /// An image of layers with an empty configuration.
    pub fn new(layers: Vec<Layer>) -> Image {
        Image {
            layers,
            config: json!({}),
        }
    }

    /// One static busybox with all its names, users `root` and `guest`.
    ///
    /// # Errors
    /// When busybox is not installed.
    pub fn busybox() -> io::Result<Image> {
        let busybox = Path::new("/bin/busybox");
        let content = std::fs::read(busybox)?;
        let names = std::process::Command::new(busybox).arg("--list").output()?;
        let mut entries = vec![
            Entry::Directory("bin/".into(), 0o755),
            Entry::Directory("etc/".into(), 0o755),
            Entry::Directory("root/".into(), 0o700),
            Entry::Directory("tmp/".into(), 0o1777),
            Entry::Directory("home/".into(), 0o755),
            Entry::File("bin/busybox".into(), 0o755, content),
            Entry::File(
                "etc/passwd".into(),
                0o644,
                b"root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/home:/bin/sh\n".to_vec(),
            ),
            Entry::File(
                "etc/group".into(),
                0o644,
                b"root:x:0:\nguest:x:1000:\nextra:x:2000:guest\n".to_vec(),
            ),
            Entry::File("etc/not-executable".into(), 0o644, b"#!/bin/sh\n".to_vec()),
        ];
        for name in String::from_utf8_lossy(&names.stdout).lines() {
            if name != "busybox" {
                entries.push(Entry::Symlink(format!("bin/{name}"), "busybox".into()));
            }
        }
        let mut image = Image::new(vec![Layer::new(&entries, Compression::Gzip)?]);
        image.config = json!({"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"]});
        Ok(image)
    }

    /// The same image with one more layer on top.
    #[must_use]
    pub fn with(mut self, layer: Layer) -> Image {
        self.layers.push(layer);
        self
    }

    /// The same image with programs of this machine and what they are linked to, where `PATH` finds them.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn with_programs(self, paths: &[&str]) -> io::Result<Image> {
        let mut image = self.with(programs(paths)?);
        image.config["Env"] = json!(["PATH=/usr/bin:/bin", "FROM_IMAGE=yes"]);
        Ok(image)
    }

    /// The image configuration as it goes over the wire.
    pub fn config_blob(&self) -> Vec<u8> {
        let diff_ids: Vec<&str> = self.layers.iter().map(|l| l.diff_id.as_str()).collect();
        json!({
            "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    /// The manifest as it goes over the wire.
    pub fn manifest(&self) -> Vec<u8> {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|l| json!({"mediaType": l.media_type, "digest": l.digest(), "size": l.blob.len()}))
            .collect();
        let config = self.config_blob();
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": CONFIG, "digest": sha256(&config), "size": config.len()},
        })
        .to_string()
        .into_bytes()
    }

    /// Writes an OCI archive: a tar of an image layout (image-spec, image-layout.md).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_archive(&self, path: &Path, name: &str) -> io::Result<()> {
        let manifest = self.manifest();
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST, "digest": sha256(&manifest), "size": manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }],
        });
        let file = |path: &str, content: &[u8]| Entry::File(path.into(), 0o644, content.to_vec());
        let blob = |content: &[u8]| {
            let digest = sha256(content).replace(':', "/");
            file(&format!("blobs/{digest}"), content)
        };
        let mut entries = vec![
            file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            file("index.json", index.to_string().as_bytes()),
        ];
        for content in [&manifest, &self.config_blob()] {
            entries.push(blob(content));
        }
        for layer in &self.layers {
            entries.push(blob(&layer.blob));
        }
        std::fs::write(path, tar_of(&entries)?)
    }

    /// Pushes blobs and manifest to a registry on loopback (distribution-spec, "Push").
    ///
    /// # Errors
    /// When the registry does not take them.
    pub fn push(&self, registry: SocketAddr, repository: &str, tag: &str) -> io::Result<()> {
        for layer in &self.layers {
            push_blob(registry, repository, &layer.blob)?;
        }
        push_blob(registry, repository, &self.config_blob())?;
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = request(registry, "PUT", &path, MANIFEST, &self.manifest())?;
        expect(201, &answer, "the manifest")
    }

    /// Pushes an index that names this image, which must be there already, once for each
    /// architecture.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn push_index(
        &self,
        registry: SocketAddr,
        repository: &str,
        tag: &str,
        architectures: &[&str],
    ) -> io::Result<()> {
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        let manifest = self.manifest();
        let manifests: Vec<Value> = architectures
            .iter()
            .map(|architecture| {
                json!({
                    "mediaType": MANIFEST, "digest": sha256(&manifest), "size": manifest.len(),
                    "platform": {"os": "linux", "architecture": architecture},
                })
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = request(registry, "PUT", &path, INDEX, index.to_string().as_bytes())?;
        expect(201, &answer, "the index")
    }
}

fn push_blob(registry: SocketAddr, repository: &str, blob: &[u8]) -> io::Result<()> {
    let digest = sha256(blob);
    let octets = "application/octet-stream";
    let known = request(
        registry,
        "HEAD",
        &format!("/v2/{repository}/blobs/{digest}"),
        octets,
        b"",
    )?;
    if known.status == 200 {
        return Ok(());
    }
    let uploads = format!("/v2/{repository}/blobs/uploads/");
    let upload = request(registry, "POST", &uploads, octets, b"")?;
    expect(202, &upload, "an upload")?;
    let location = upload
        .header("location")
        .ok_or_else(|| io::Error::other("the registry names no place for the upload"))?;
    // Absolute or not, it is the same server.
    let path = match location.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
        None => location,
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}digest={digest}");
    let answer = request(registry, "PUT", &path, octets, blob)?;
    expect(201, &answer, "a blob")
}

fn expect(status: u16, answer: &crate::http::Response, what: &str) -> io::Result<()> {
    if answer.status == status {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the registry refused {what} with status {}: {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    )))
}
