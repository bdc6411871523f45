//! OCI images from registries and archives to file system images in the store.
//!
//! Content is checked against its digests while it streams, nothing is extracted to the host, and
//! no lock is held during downloads or builds but the one that lets equal pulls wait.

mod arrivals;
mod blobs;
mod build;
mod config;
mod diagnose;
mod error;
mod import;
mod layer;
mod limits;
mod manifest;
mod platform;
mod publish;
mod pull;
mod registry;

pub use error::{Error, Source, TlsFault};
pub use import::{ImportRequest, Input, import};
pub use limits::Limits;
pub use platform::Platform;
pub use publish::{delete, tag};
pub use pull::{PullRequest, pull};
pub use registry::{RegistryOptions, Retry, credential_files};
