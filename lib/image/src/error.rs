//! Errors of pulling, importing and building; what helps against each is in `diagnose`.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use lib_model::{ByteSize, Digest};
use lib_store::StoreError;

/// Any error underneath.
pub type Source = Box<dyn StdError + Send + Sync>;

/// Why an image could not be pulled, imported, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nix, or what it built.
    #[error(transparent)]
    Nix(#[from] lib_nix::Error),
    /// A file or stream could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// Status 401: credentials are missing or wrong.
    #[error("{registry} wants other credentials for {what}")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// Status 403.
    #[error("{registry} denies access to {what}")]
    Denied {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The repository is not there, or not visible to us.
    #[error("{registry} has no repository `{repository}`")]
    UnknownRepository {
        /// Host and port.
        registry: String,
        /// Path within the registry.
        repository: String,
    },
    /// The repository may be there, but not this tag, digest or blob.
    #[error("{registry} has no {what}")]
    UnknownTag {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// Any other status that is no success.
    #[error(
        "{registry} answered {status} to the request for {what}{}",
        suffix(message)
    )]
    Status {
        /// Host and port.
        registry: String,
        /// HTTP status code, or the registry's error code.
        status: String,
        /// What was asked for.
        what: String,
        /// What the registry said, shortened.
        message: String,
    },
    /// No connection, or one that broke.
    #[error("the connection to {registry} failed during the request for {what}")]
    Connection {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// The connection was refused: nobody listens.
        refused: bool,
        /// Why.
        source: Source,
    },
    /// TLS with the registry failed.
    #[error("no trusted connection to {registry}")]
    Tls {
        /// Host and port.
        registry: String,
        /// What is wrong with it.
        fault: TlsFault,
        /// Why.
        source: Source,
    },
    /// The answer makes no sense.
    #[error("{registry} sent an answer that cannot be used for {what}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        source: Source,
    },
    /// A program that keeps credentials failed.
    #[error("the credential helper {program} gave nothing for {server}: {reason}")]
    CredentialHelper {
        /// Such as `docker-credential-pass`.
        program: String,
        /// What it was asked for.
        server: String,
        /// What is wrong.
        reason: String,
    },
    /// No HTTP client or runtime could be made.
    #[error("cannot start the registry client")]
    Client(#[source] Source),

    /// Content that is not what its digest says.
    #[error("{what} has the digest {actual}, expected {expected}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// As announced.
        expected: Digest,
        /// As it came.
        actual: Digest,
    },
    /// Content of another length than its descriptor says.
    #[error("{what} is truncated: {received} of {expected} bytes came")]
    Truncated {
        /// What was read.
        what: String,
        /// As announced.
        expected: u64,
        /// As it came.
        received: u64,
    },
    /// Content longer than its descriptor says.
    #[error("{what} is longer than the {expected} bytes that were announced")]
    TooLong {
        /// What was read.
        what: String,
        /// As announced.
        expected: u64,
    },
    /// A layer whose uncompressed content is not what the configuration says.
    #[error("layer {layer} unpacks to {actual}, its diff-id is {expected}")]
    DiffId {
        /// Digest of the compressed layer.
        layer: Digest,
        /// As the configuration says.
        expected: Digest,
        /// As it came.
        actual: Digest,
    },

    /// A manifest, index or configuration that does not parse.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Docker's manifest of before 2016.
    #[error("{what} is a manifest of schema 1, which carries no digests of its content")]
    Schema1 {
        /// Which document.
        what: String,
    },
    /// A media type that this program does not know.
    #[error("{what} has the media type `{media_type}`, which is not supported")]
    MediaType {
        /// Which document or layer.
        what: String,
        /// As written.
        media_type: String,
    },
    /// A layer that must be fetched from elsewhere.
    #[error("{what} is a foreign layer ({media_type}), which is not downloaded")]
    ForeignLayer {
        /// Which layer.
        what: String,
        /// As written.
        media_type: String,
    },
    /// A compression that OCI does not have.
    #[error("{what} is compressed with {format}; only gzip and zstd are supported")]
    Compression {
        /// What was read.
        what: String,
        /// Name of the format.
        format: &'static str,
    },
    /// No image for this platform.
    #[error("{what} has no image for {wanted}, only for {}", list(available))]
    NoPlatform {
        /// Reference or file.
        what: String,
        /// As asked for.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// A limit of [`crate::Limits`] was reached.
    #[error("{what} has {found} {unit}, the limit is {limit}")]
    Limit {
        /// What was looked at.
        what: String,
        /// Unit of the numbers.
        unit: &'static str,
        /// What there is.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Too little room on the disk, found before anything was downloaded.
    #[error("{what} needs about {needed}, but {} has {free} free", path.display())]
    NoSpace {
        /// What was to be made.
        what: String,
        /// Where.
        path: PathBuf,
        /// Estimated.
        needed: ByteSize,
        /// Available to us.
        free: ByteSize,
    },
    /// Without the network something is missing.
    #[error(
        "{what} is not here, and --offline allows no network{}",
        missing_list(missing)
    )]
    Offline {
        /// The image.
        what: String,
        /// Blobs that are missing, where that is known.
        missing: Vec<String>,
    },
    /// The lock file does not have the reference.
    #[error("{} has no digest of {reference}", path.display())]
    NotLocked {
        /// The lock file.
        path: PathBuf,
        /// The reference.
        reference: String,
    },
    /// The reference means something else than the lock file says.
    #[error("{reference} is {actual} now, {} has {locked}", path.display())]
    LockDiffers {
        /// The lock file.
        path: PathBuf,
        /// The reference.
        reference: String,
        /// What the lock file has.
        locked: Digest,
        /// What the registry has.
        actual: Digest,
    },
    /// No platform of this form.
    #[error("`{0}` is not a platform such as linux/amd64")]
    Platform(String),

    /// The file system could not be made.
    #[error("cannot build the file system of {image}")]
    Build {
        /// Reference or file.
        image: String,
        /// Why.
        source: lib_fs::Error,
    },

    /// A layout is written into a directory of its own.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// An image that is no list of layers, or whose layers are gone.
    #[error("the layers of the image `{image}` are not here (it came from {source_text})")]
    NoLayers {
        /// As asked for.
        image: String,
        /// Where it came from.
        source_text: String,
    },
    /// An image that no registry has.
    #[error("the image `{image}` came from no registry, but from {source_text}")]
    NotPulled {
        /// As asked for.
        image: String,
        /// Where it came from.
        source_text: String,
    },

    /// The input is none of the forms that can be imported.
    #[error("{what} is not an image: {reason}")]
    NotAnImage {
        /// File or standard input.
        what: String,
        /// What it looks like.
        reason: String,
    },
    /// An archive that ends early or is damaged.
    #[error("cannot read the archive {what}")]
    Archive {
        /// File or standard input.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// An archive that lacks something it refers to.
    #[error("{what} lacks `{member}`")]
    MissingMember {
        /// File or standard input.
        what: String,
        /// Name of the file.
        member: String,
    },
    /// Several images, and none was chosen.
    #[error("{what} holds several images: {}", list(names))]
    SeveralImages {
        /// File or standard input.
        what: String,
        /// Their names or digests.
        names: Vec<String>,
    },
    /// No image of the name asked for.
    #[error("{what} has no image `{selected}`, only {}", list(names))]
    NotSelected {
        /// File or standard input.
        what: String,
        /// As asked for.
        selected: String,
        /// Names or digests of what is there.
        names: Vec<String>,
    },
    /// An option that does not fit the input.
    #[error("{option} is for root file system archives; {what} has a configuration of its own")]
    OptionUnused {
        /// The option.
        option: &'static str,
        /// File or standard input.
        what: String,
    },
    /// An option's value cannot be used.
    #[error("{option} `{value}` {reason}")]
    OptionValue {
        /// The option.
        option: &'static str,
        /// As given.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Why a TLS connection was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The certificate's issuer is not known here.
    UnknownCa,
    /// The certificate has expired, is for another name, or cannot be a server's.
    Certificate,
    /// What answers speaks no TLS, or none that we speak.
    Protocol,
}

impl Error {
    /// For `map_err`: an I/O error with what was tried and on what.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn malformed(what: &str, reason: impl std::fmt::Display) -> Error {
        Error::Malformed {
            what: what.to_owned(),
            reason: reason.to_string(),
        }
    }
}

fn suffix(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

fn missing_list(missing: &[String]) -> String {
    if missing.is_empty() {
        String::new()
    } else {
        format!("; missing: {}", missing.join(", "))
    }
}
