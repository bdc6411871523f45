//! The seam between a VM and its VMM. A further VMM is one file that implements [`Driver`].

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use banger_wire::config::ShareKind;
use lib_model::ByteSize;

use crate::qemu::Qemu;
use crate::{Acceleration, VmError};

/// A disk of a VM; the guest finds it by its serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    /// The file on the host.
    pub path: PathBuf,
    /// At most 20 bytes; also the VMM's name for the disk.
    pub serial: String,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// What the file is.
    pub format: Format,
}

/// What a disk's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// The disk itself.
    Raw,
    /// qcow2, over a raw file that is only read.
    Qcow2 {
        /// That file.
        backing: PathBuf,
    },
}

/// A directory of the host that the guest mounts by its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharePlan {
    /// On the host.
    pub source: PathBuf,
    /// Where the guest has it.
    pub path: String,
    /// At most 31 bytes.
    pub tag: String,
    /// Writes are refused on the host's side.
    pub read_only: bool,
    /// 9P is served by the VMM, virtiofs by a process that the monitor starts.
    pub kind: ShareKind,
}

/// Everything a VMM has to know to run a VM.
#[derive(Debug)]
pub struct LaunchPlan<'a> {
    /// The VM's name, for process listings.
    pub name: &'a str,
    /// KVM or emulation.
    pub acceleration: Acceleration,
    /// Version of the hardware, of those that [`Driver::machine`] gives.
    pub machine: &'a str,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Uncompressed ELF kernel.
    pub vmlinux: &'a Path,
    /// What the image has the kernel told; what the boot itself needs counts more.
    pub kernel_parameters: &'a [String],
    /// Initramfs with the configuration in it.
    pub initrd: &'a Path,
    /// In the order in which the guest sees them.
    pub disks: Vec<DiskPlan>,
    /// Directories of the host.
    pub shares: Vec<SharePlan>,
    /// Hardware address of the one interface; none: no device.
    pub mac: Option<&'a str>,
    /// Inherited descriptor of the interface's other side; none: the user-mode network.
    pub tap: Option<RawFd>,
}

/// A VMM.
pub trait Driver {
    /// As recorded with the VM.
    fn name(&self) -> &'static str;

    /// The machine that new VMs get; recorded with them, so that a newer VMM does not change theirs.
    fn machine(&self, acceleration: Acceleration) -> &'static str;

    /// Finds the program.
    ///
    /// # Errors
    /// [`VmError::NoVmm`].
    fn program(&self) -> Result<PathBuf, VmError>;

    /// The arguments, with the placeholders of [`banger_wire::monitor::placeholder`].
    ///
    /// # Errors
    /// When the VMM cannot do what the plan asks.
    fn arguments(&self, plan: &LaunchPlan<'_>) -> Result<Vec<String>, VmError>;
}

/// The driver of a recorded VM.
pub fn driver(_name: &str) -> &'static dyn Driver {
    &Qemu
}
