//! Kernel and root file system from the archive of the host distribution, through its own clients.
//!
//! The clients verify signatures; they get a cleared environment and arguments, never a shell made
//! from input. Nothing here needs privileges.

mod apt;
mod bootstrap;
mod date;
mod deb822;
mod error;
mod host;
mod program;
mod request;

pub use apt::{KernelPackage, kernel_package};
pub use bootstrap::{RootTar, root_tar};
pub use error::DistroError;
pub use host::{Family, HostDistribution, host};
pub use request::{RootFile, RootTarRequest};
