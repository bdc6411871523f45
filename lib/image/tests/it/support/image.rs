//! Images by hand: blobs and documents, and their way into layouts and registries.

use std::path::{Path, PathBuf};
use std::process::Command;

use lib_model::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::{Entry, gzip, tar, zstd};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: String,
    pub(crate) media_type: String,
}

impl Layer {
    pub(crate) fn plain(entries: &[Entry]) -> Self {
        let tar = tar(entries);
        let diff_id = digest(&tar).to_string();
        Layer {
            blob: tar,
            diff_id,
            media_type: LAYER.into(),
        }
    }

    pub(crate) fn gzip(entries: &[Entry]) -> Self {
        let plain = Layer::plain(entries);
        Layer {
            blob: gzip(&plain.blob),
            media_type: format!("{LAYER}+gzip"),
            ..plain
        }
    }

    pub(crate) fn zstd(entries: &[Entry]) -> Self {
        let plain = Layer::plain(entries);
        Layer {
            blob: zstd(&plain.blob),
            media_type: format!("{LAYER}+zstd"),
            ..plain
        }
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": digest(&self.blob), "size": self.blob.len()})
    }
}

/// Base layer first.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Value,
    pub(crate) architecture: &'static str,
}

impl Image {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let config = json!({
            "Env": ["PATH=/bin", "A=b"], "Cmd": ["sh"], "Entrypoint": null,
            "User": "daemon", "WorkingDir": "/srv",
        });
        Image {
            layers,
            config,
            architecture: "amd64",
        }
    }

    /// One small gzip layer.
    pub(crate) fn small() -> Self {
        Image::new(vec![Layer::gzip(&[
            Entry::dir("etc"),
            Entry::file("etc/hostname", "small\n"),
            Entry::file("data", noise(200_000)),
        ])])
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<&str> = self.layers.iter().map(|l| l.diff_id.as_str()).collect();
        let config = json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        serde_json::to_vec(&config).unwrap()
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let layers: Vec<Value> = self.layers.iter().map(Layer::descriptor).collect();
        let config = self.config();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
        });
        serde_json::to_vec(&manifest).unwrap()
    }

    pub(crate) fn descriptor(&self) -> Value {
        let manifest = self.manifest();
        json!({"mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len()})
    }

    /// Manifest, configuration, layers.
    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = vec![self.manifest(), self.config()];
        blobs.extend(self.layers.iter().map(|layer| layer.blob.clone()));
        blobs
    }
}

/// Bytes that do not compress, the same every time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An index over images, each with its platform.
pub(crate) fn index(images: &[(&Image, &str)]) -> Vec<u8> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(image, platform)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            let mut entry = image.descriptor();
            entry["platform"] = json!({"os": os, "architecture": architecture});
            entry
        })
        .collect();
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
        .unwrap()
}

/// `(name, content)` of a layout's files, `index.json` from `entries`.
pub(crate) fn layout(entries: Vec<Value>, blobs: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let index = json!({"schemaVersion": 2, "manifests": entries});
    let mut files = vec![
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
    ];
    for blob in blobs {
        files.push((format!("blobs/sha256/{}", digest(blob).hex()), blob.clone()));
    }
    files
}

/// An entry of `index.json` with a name.
pub(crate) fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

pub(crate) fn write_layout(root: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (name, content) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    root.to_owned()
}

/// A tar of files under exactly these names.
pub(crate) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<Entry> = files
        .iter()
        .map(|(name, content)| Entry::file(name, content))
        .collect();
    tar(&entries)
}

/// `skopeo copy` from a layout to a registry on loopback.
pub(crate) fn push(layout: &Path, tag: &str, target: &str, options: &[&str]) {
    let output = Command::new("/usr/bin/skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ])
        .args(options)
        .arg(format!("oci:{}:{tag}", layout.display()))
        .arg(format!("docker://{target}"))
        .env_clear()
        .env("HOME", layout)
        .env("TMPDIR", "/tmp")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
