//! What can go wrong with kernels.

use std::io;
use std::path::{Path, PathBuf};

use lib_model::{Diagnose, Exit, NameError};
use lib_store::StoreError;

use crate::{Compression, ElfFault};

/// Why a kernel could not be imported or prepared.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a kernel: {found}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// A package or compressed file that does not read to its end.
    #[error("{} is damaged or cut short", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: io::Error,
    },
    /// A bzImage without a usable payload.
    #[error("cannot extract the kernel from {}: {reason}", path.display())]
    Payload {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What the decompressor said.
        source: Option<io::Error>,
    },
    /// Compressed in a way that is only recognised.
    #[error("{} is compressed with {compression}, which is not supported", path.display())]
    Compression {
        /// The file.
        path: PathBuf,
        /// Its compression.
        compression: Compression,
    },
    /// An ELF kernel that cannot be booted.
    #[error("{} cannot be booted: {fault}", path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: ElfFault,
    },
    /// A package without /boot/vmlinuz-….
    #[error("the package {} holds no kernel", path.display())]
    NoKernel {
        /// The package.
        path: PathBuf,
        /// It holds modules.
        modules: bool,
    },
    /// Kernel and modules, or two kernels, of different releases.
    #[error("{} is for kernel {found}, not {expected}", path.display())]
    Release {
        /// What was read last.
        path: PathBuf,
        /// Its release.
        found: String,
        /// The release of what was read before.
        expected: String,
    },
    /// A module that is no module.
    #[error("the module {module} is damaged: {fault}")]
    Module {
        /// Its path under the release.
        module: String,
        /// What is wrong.
        fault: ElfFault,
    },
    /// More than a kernel's file can be.
    #[error("{file} in {} has {size} bytes, more than the {limit} that are plausible", path.display())]
    TooLarge {
        /// The package or directory.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// Its length.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Drivers that the guest cannot do without.
    #[error("the kernel {release} lacks {}", missing.join(", "))]
    Drivers {
        /// Its release.
        release: String,
        /// The drivers.
        missing: Vec<String>,
        /// It came with modules.
        modules: bool,
    },
    /// The agent is not there.
    #[error("the guest agent {} is missing", path.display())]
    NoAgent {
        /// Where it should be.
        path: PathBuf,
    },
    /// The agent would not start in a guest.
    #[error("the guest agent {} does not run without a host's libraries: {reason}", path.display())]
    Agent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The release is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The module image could not be built.
    #[error("cannot build the module image")]
    Image(#[from] lib_fs::Error),
}

impl Diagnose for KernelError {
    fn exit(&self) -> Exit {
        match self {
            KernelError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Exit::NotFound
            }
            KernelError::Name(error) => error.exit(),
            KernelError::Store(error) => error.exit(),
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            KernelError::NotAKernel { .. } => {
                Some("give a Debian kernel package (.deb), a bzImage (vmlinuz) or a vmlinux".into())
            }
            KernelError::Damaged { .. } => Some("fetch the file again".into()),
            KernelError::NoKernel { modules: true, .. } => {
                Some("import the linux-image package, and give this one with --modules FILE".into())
            }
            KernelError::NoKernel { .. } => Some(
                "a package like linux-image-cloud-amd64 only depends on the kernel; \
                 fetch the one it names: apt-cache depends linux-image-cloud-amd64"
                    .into(),
            ),
            KernelError::Compression { .. } | KernelError::Payload { .. } => Some(
                "gzip, xz, lzma, zstd and lz4 work; decompress it by hand (linux's \
                 scripts/extract-vmlinux) and import the vmlinux"
                    .into(),
            ),
            KernelError::Drivers { modules: false, .. } => Some(
                "if they are modules, give them with --modules /lib/modules/RELEASE (or a .deb)"
                    .into(),
            ),
            KernelError::Drivers { .. } => {
                Some("a cloud kernel has them, such as Debian's linux-image-cloud-amd64".into())
            }
            KernelError::NoAgent { .. } | KernelError::Agent { .. } => {
                Some("cargo xtask build".into())
            }
            KernelError::Name(error) => error.hint(),
            KernelError::Store(error) => error.hint(),
            _ => None,
        }
    }
}

/// For `map_err`: an I/O error with what was tried and on what.
pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl Fn(io::Error) -> KernelError + use<> {
    let path = path.to_owned();
    move |source| KernelError::Io {
        action,
        path: path.clone(),
        source,
    }
}

/// For `map_err`: a file that does not read to its end.
pub(crate) fn damaged(path: &Path) -> impl Fn(io::Error) -> KernelError + use<> {
    let path = path.to_owned();
    move |source| KernelError::Damaged {
        path: path.clone(),
        source,
    }
}
