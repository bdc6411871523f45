//! OCI images from registries and archives to file system images in the store.
//!
//! Content is checked against its digests while it streams, nothing is extracted to the host, and
//! none of the store's ordered locks is held during downloads or builds.

mod ahead;
mod arrivals;
mod blob_writer;
mod blobs;
mod build;
mod claim;
mod collect;
mod config;
mod diagnose;
mod error;
mod export;
mod fetch;
mod import;
mod layer;
mod limits;
mod local;
mod lock_file;
mod manifest;
mod partial;
mod pins;
mod platform;
mod publish;
mod pull;
mod registry;
mod size;
mod space;
mod verify;

pub use collect::{Collected, PARTIAL_AGE, cached, collect};
pub use error::{Error, Source, TlsFault};
pub use export::{derivation, export_layout, pull_layout};
pub use import::{ImportRequest, Input, NixImage, import, import_nix, import_program};
pub use limits::Limits;
pub use lock_file::LockFile;
pub use platform::Platform;
pub use publish::{delete, tag, untag};
pub use pull::{PullRequest, pull};
pub use registry::{RegistryOptions, Retry, credential_files};
pub use size::Size;
pub use verify::{Verified, verify};
