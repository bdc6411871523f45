//! What can go wrong while an image is built: a bad layer, a limit, or the image file itself.

use std::io;

/// Why [`crate::build`] and its relatives stopped. The image file is then in an undefined state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The layer's reader failed; digest mismatches found at its end arrive here too.
    #[error("layer {layer}: cannot read")]
    Read {
        /// Name the caller gave the layer.
        layer: String,
        /// What the reader said.
        source: io::Error,
    },
    /// The first header of a layer is not a tar header.
    #[error("layer {layer}: not a tar archive: {reason}")]
    NotTar {
        /// Name the caller gave the layer.
        layer: String,
        /// What is wrong with the header.
        reason: &'static str,
    },
    /// A layer that started as tar is damaged or truncated.
    #[error("layer {layer}: damaged tar archive at byte {offset}: {reason}")]
    Damaged {
        /// Name the caller gave the layer.
        layer: String,
        /// Offset in the uncompressed stream.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A well-formed entry that cannot be applied.
    #[error("layer {layer}: entry {entry:?}: {fault}")]
    Entry {
        /// Name the caller gave the layer.
        layer: String,
        /// Path of the entry as the archive has it, lossy.
        entry: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A limit of [`crate::Limits`] was reached.
    #[error("more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The limit in force.
        limit: u64,
    },
    /// The merged tree holds something the file system has no form for.
    #[error("{path:?} cannot be stored: {fault}")]
    Unstorable {
        /// Path in the merged tree, lossy.
        path: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The size asked for does not hold the content.
    #[error("{size} bytes are too small, {needed} are needed")]
    TooSmall {
        /// Bytes asked for.
        size: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// An option has a value the file system cannot have.
    #[error("option {option}: {reason}")]
    Option {
        /// Field of [`crate::Options`].
        option: &'static str,
        /// What is wrong with its value.
        reason: &'static str,
    },
    /// The image file has content already, which would show in the holes of the image.
    #[error("the image file is not empty")]
    NotEmpty,
    /// The image file could not be written.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
}

/// What is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// `..` in the path or link target of the entry.
    #[error("the path contains \"..\"")]
    Parent,
    /// A NUL byte in a name or target.
    #[error("the path contains a NUL byte")]
    Nul,
    /// A component beyond 255 bytes.
    #[error("a name is longer than 255 bytes")]
    NameTooLong,
    /// The path is longer than [`crate::Limits::path_bytes`].
    #[error("the path is longer than {0} bytes")]
    PathTooLong(u64),
    /// A parent of the entry is a file, a device or the like in the same layer.
    #[error("a parent is not a directory")]
    NotADirectory,
    /// The root of the tree can only be a directory.
    #[error("the root is not a directory")]
    Root,
    /// More than 40 symbolic links while resolving the parent.
    #[error("too many levels of symbolic links")]
    Loop,
    /// A hardlink whose target exists neither in its layer nor below.
    #[error("hardlink to {0:?}, which does not exist")]
    Dangling(String),
    /// A hardlink to a directory.
    #[error("hardlink to {0:?}, which is a directory")]
    LinkToDirectory(String),
    /// An empty target, or one of 4,096 bytes or more.
    #[error("the symbolic link target has {0} bytes")]
    Target(usize),
    /// `.wh.` without a name.
    #[error("a whiteout without a name")]
    Whiteout,
    /// An entry type that has no meaning in a layer.
    #[error("unsupported entry type {0:?}")]
    Type(char),
    /// A user or group id beyond 32 bits.
    #[error("user or group id out of range")]
    Owner,
    /// A device number beyond 12 bits major, 20 bits minor.
    #[error("device number out of range")]
    Device,
    /// An extended attribute with an empty or over-long name.
    #[error("bad extended attribute name")]
    XattrName,
    /// Extended attributes larger than the inode and one block can hold.
    #[error("extended attributes are too large")]
    XattrSize,
    /// A POSIX ACL that does not parse.
    #[error("malformed POSIX ACL")]
    Acl,
    /// A file beyond 16 TiB.
    #[error("the file is too large")]
    FileSize,
    /// More than 65,000 hardlinks.
    #[error("too many hardlinks")]
    Links,
    /// `lost+found` in the root must be a directory, or fsck refuses the file system.
    #[error("lost+found is not a directory")]
    LostAndFound,
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
