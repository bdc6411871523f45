//! What an image store holds: images, kernels, blobs, and layouts that were written.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Digest, ImageId, KernelId, KernelName};

/// An image in the store: a file system and how to run what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: ImageId,
    /// Names that point to it, sorted; the first one is the one to show. May be empty.
    pub names: Vec<String>,
    /// Digest of the manifest, or of the content for images that never had one.
    pub digest: Digest,
    /// Where it came from: a reference, or a description of the import.
    pub source: String,
    /// OCI architecture, such as `amd64`.
    pub architecture: String,
    /// File system type of the image file: `ext4` or `erofs`.
    pub filesystem: String,
    /// Length of the image file.
    pub size: ByteSize,
    /// Bytes of it that are in use.
    pub used: ByteSize,
    /// How to run it.
    pub config: OciConfig,
    /// The kernel that it brings; VMs of it boot that one unless another is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelId>,
    /// Publication time, milliseconds since 1970.
    pub created_ms: u64,
    /// Something was made by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// An OCI layout outside of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Its directory.
    pub path: String,
    /// Digest of the one manifest in it.
    pub digest: Digest,
    /// Bytes of its blobs.
    pub size: ByteSize,
    /// It was made by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// The part of an OCI image configuration that matters at run time (image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciConfig {
    /// `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// `user[:group]` by name or number; empty is root.
    #[serde(default)]
    pub user: String,
    /// Absolute path; empty is `/`.
    #[serde(default)]
    pub working_dir: String,
    /// First words of the command.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Last words of the command, replaced by what the user gives.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Name or number of the signal that asks the command to end; empty is SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
    /// What a new work disk begins with: a directory or a tar archive of the image, by its label
    /// `org.banger.work-seed`; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub work_seed: String,
    /// What a NixOS system has its kernel told (`boot.kernelParams`): printable, without braces. No
    /// registry's image has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_parameters: Vec<String>,
}

/// A kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: KernelId,
    /// Unique name.
    pub name: KernelName,
    /// `uname -r` of it, read from the kernel or its package.
    pub release: String,
    /// Architecture in OCI's words, such as `amd64`.
    pub architecture: String,
    /// Digest of the imported file.
    pub digest: Digest,
    /// Where it came from.
    pub source: String,
    /// An uncompressed ELF kernel is there.
    pub vmlinux: bool,
    /// Number of modules in its module image; 0 when it has none.
    pub modules: u64,
    /// Publication time, milliseconds since 1970.
    pub created_ms: u64,
    /// Something was made by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// A blob in the store: manifest, configuration or layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Digest of it, or of what it will be.
    pub digest: Digest,
    /// Its length, or what is here of it.
    pub size: ByteSize,
    /// What it is good for.
    pub state: BlobState,
    /// Names or ids of the images that have it.
    #[serde(default)]
    pub images: Vec<String>,
    /// It was removed by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// What a blob is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlobState {
    /// Images have it.
    Used,
    /// No image has it; another pull may.
    Unused,
    /// The beginning of a blob whose download ended early, or goes on.
    Partial,
}

impl std::fmt::Display for BlobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            BlobState::Used => "used",
            BlobState::Unused => "unused",
            BlobState::Partial => "partial",
        })
    }
}
