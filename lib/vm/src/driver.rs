//! The seam between a VM and its VMM. A further VMM is one file that implements [`Driver`].

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use lib_model::ByteSize;

use crate::qemu::Qemu;
use crate::{Acceleration, VmError};

/// A disk of a VM; the guest finds it by its serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    /// The file on the host, raw.
    pub path: PathBuf,
    /// At most 20 bytes.
    pub serial: &'static str,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// Everything a VMM has to know to run a VM.
#[derive(Debug)]
pub struct LaunchPlan<'a> {
    /// The VM's name, for process listings.
    pub name: &'a str,
    /// KVM or emulation.
    pub acceleration: Acceleration,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Uncompressed ELF kernel.
    pub vmlinux: &'a Path,
    /// Initramfs with the configuration in it.
    pub initrd: &'a Path,
    /// In the order in which the guest sees them.
    pub disks: Vec<DiskPlan>,
    /// Hardware address of the one interface; none: no device.
    pub mac: Option<&'a str>,
    /// Inherited descriptor of the interface's other side; none: the user-mode network.
    pub tap: Option<RawFd>,
}

/// A VMM.
pub trait Driver {
    /// As recorded with the VM.
    fn name(&self) -> &'static str;

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
