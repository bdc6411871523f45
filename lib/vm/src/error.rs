//! Errors of a VM's life.

use std::io;
use std::path::PathBuf;

use lib_config::ConfigError;
use lib_kernel::KernelError;
use lib_model::{Diagnose, Exit, NameError};
use lib_ssh::SshError;
use lib_store::StoreError;

/// What can go wrong in a VM's life.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel or its initramfs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The network's daemon.
    #[error(transparent)]
    Net(#[from] lib_net::NetError),
    /// Keys for SSH.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A bad name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The data disk.
    #[error("cannot make a data disk of {size}")]
    DataDisk {
        /// For people.
        size: String,
        /// Why.
        source: lib_fs::Error,
    },
    /// No VMM on this machine.
    #[error("{program} is not installed (looked in {searched})")]
    NoVmm {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        searched: String,
    },
    /// A part of banger is missing.
    #[error("banger's helper {} is missing or cannot be executed", path.display())]
    NoHelper {
        /// Where it should be.
        path: PathBuf,
    },
    /// KVM was demanded.
    #[error("KVM cannot be used: {problem}")]
    NoKvm {
        /// Why.
        problem: String,
    },
    /// A number that no VM can have.
    #[error("{what} {value} is out of range ({range})")]
    OutOfRange {
        /// `memory`, `cpus`, `disk`.
        what: &'static str,
        /// As given.
        value: String,
        /// What is possible.
        range: String,
    },
    /// Less is left than the VM will need at once.
    #[error("the VM needs {needed} of {what}, {available} are available")]
    NotEnough {
        /// `memory` or `disk space`.
        what: &'static str,
        /// For people.
        needed: String,
        /// For people.
        available: String,
    },
    /// More than one thing is in the way.
    #[error("{}", list(problems))]
    Preflight {
        /// Each by itself.
        problems: Vec<VmError>,
    },
    /// The VMM that is installed cannot be used.
    #[error("{} cannot be used: {problem}", program.display())]
    Vmm {
        /// Where it is.
        program: PathBuf,
        /// Why.
        problem: String,
    },
    /// The image's file system cannot be written, and this kind of disk writes it.
    #[error("a disk of kind {kind} needs an image with ext4, this one has {filesystem}")]
    DiskKind {
        /// `copy` and so on.
        kind: &'static str,
        /// The image's.
        filesystem: String,
    },
    /// There is no `/nix/store` to share.
    #[error("this machine has no Nix store")]
    NoNixStore,
    /// A directory of the host that may not or cannot be shared.
    #[error("{} cannot be shared: {reason}", path.display())]
    Share {
        /// As it was given, or recorded.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The guest could not mount a directory of the host.
    #[error(
        "the kernel {kernel} has neither 9p nor virtiofs, so a guest of it sees no directory of the host"
    )]
    ShareKernel {
        /// Its name.
        kernel: String,
    },
    /// The kernel has virtiofs only, and nobody would serve it.
    #[error("virtiofsd is not installed, and the kernel has no 9p, which would not need it")]
    NoVirtiofsd,
    /// Nobody here keeps a VM's limits.
    #[error("limits cannot be kept here: {reason}")]
    NoLimits {
        /// Why.
        reason: String,
    },
    /// The root of a running VM is in use.
    #[error("the image of {vm} can only be changed while it is stopped")]
    ImageWhileRunning {
        /// The VM's name.
        vm: String,
    },
    /// What was written over one image means nothing over another.
    #[error(
        "with the image {image}, {vm} loses what was written to its root ({used} on this machine)"
    )]
    DiscardsRoot {
        /// The VM's name.
        vm: String,
        /// Of the new image.
        image: String,
        /// By the disk of the root.
        used: lib_model::ByteSize,
    },
    /// No volume has this name.
    #[error("there is no volume {volume}")]
    NoVolume {
        /// Its name.
        volume: String,
    },
    /// A VM has the volume.
    #[error("the volume {volume} is in use by {vm}")]
    VolumeInUse {
        /// The volume.
        volume: String,
        /// Name of the VM.
        vm: String,
    },
    /// The monitor could not start the VMM.
    #[error("{vm} could not be started: {message}")]
    Launch {
        /// The VM's name.
        vm: String,
        /// The monitor's words.
        message: String,
    },
    /// The VMM ended, or the guest gave up, before the guest was ready.
    #[error("{vm} did not boot: {cause}{console}")]
    Boot {
        /// The VM's name.
        vm: String,
        /// The most probable cause.
        cause: String,
        /// The last lines of the console, indented; may be empty.
        console: String,
    },
    /// The verb needs a running VM.
    #[error("{vm} is not running")]
    NotRunning {
        /// The VM's name.
        vm: String,
    },
    /// The monitor lives and does not answer.
    #[error("{vm} is running, but its monitor (process {pid}) does not answer")]
    Unattended {
        /// The VM's name.
        vm: String,
        /// The monitor.
        pid: i32,
    },
    /// The image is for another processor.
    #[error("the image {image} is for {architecture}, this machine runs {host}")]
    Architecture {
        /// The image's name.
        image: String,
        /// OCI architecture of the image.
        architecture: String,
        /// OCI architecture of the kernel.
        host: String,
    },
    /// The verb needs a stopped VM.
    #[error("{vm} is running")]
    Running {
        /// The VM's name.
        vm: String,
    },
    /// The monitor said something unexpected, or nothing.
    #[error("the monitor of {vm} cannot be reached")]
    Monitor {
        /// The VM's name.
        vm: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("the port {address} is taken{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    PortInUse {
        /// Of the host.
        address: std::net::SocketAddr,
        /// Who has it, if that can be known.
        holder: Option<String>,
    },
    /// An address of the host cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The user pressed Ctrl-C or the process was asked to end.
    #[error("interrupted")]
    Interrupted,
    /// A file operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// In the imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Diagnose for VmError {
    fn exit(&self) -> Exit {
        match self {
            VmError::Store(error) => error.exit(),
            VmError::Kernel(error) => error.exit(),
            VmError::Name(error) => error.exit(),
            VmError::Net(error) => error.exit(),
            VmError::Ssh(error) => error.exit(),
            VmError::Config(error) => error.exit(),
            VmError::OutOfRange { .. } | VmError::Share { .. } | VmError::NoNixStore => Exit::Usage,
            VmError::Running { .. }
            | VmError::ImageWhileRunning { .. }
            | VmError::PortInUse { .. }
            | VmError::VolumeInUse { .. } => Exit::Busy,
            VmError::NoVolume { .. } => Exit::NotFound,
            VmError::Preflight { problems } => {
                problems.first().map_or(Exit::Failed, Diagnose::exit)
            }
            VmError::Interrupted => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            VmError::Store(error) => error.hint(),
            VmError::Kernel(error) => error.hint(),
            VmError::Net(error) => error.hint(),
            VmError::Ssh(error) => error.hint(),
            VmError::Config(error) => error.hint(),
            VmError::NoVmm {
                program: "qemu-system-x86_64",
                ..
            } => Some(
                "sudo apt-get install qemu-system-x86   (NixOS: services.banger.enable = true)"
                    .into(),
            ),
            VmError::Preflight { problems } => problems.iter().find_map(Diagnose::hint),
            VmError::Vmm { .. } => Some("install QEMU 7.2 or newer, built with seccomp".into()),
            VmError::DiskKind { .. } => {
                Some("use --disk-kind overlay, or pull the image with --format ext4".into())
            }
            VmError::NoLimits { .. } => Some(
                "leave --cpu-limit and --memory-limit out, or run where systemd or a delegated cgroup is".into(),
            ),
            VmError::ImageWhileRunning { vm } => Some(format!("banger-vm stop {vm}")),
            VmError::DiscardsRoot { vm, .. } => Some(format!(
                "add --discard-root; its work disk and volumes stay. To keep files of the root: \
                 banger-vm cp {vm}:PATH ."
            )),
            VmError::ShareKernel { .. } => Some(
                "import one that has (on Debian those of linux-image-cloud-amd64 and linux-image-amd64; one \
                 that an older banger imported, again): banger-image kernel import linux-image-….deb"
                    .into(),
            ),
            VmError::NoVirtiofsd => Some(
                "sudo apt-get install virtiofsd   (on Debian 12: qemu-system-common; or import a kernel with 9p, \
                 as linux-image-amd64 is)"
                    .into(),
            ),
            VmError::NoVolume { volume } => Some(format!("banger-vm volume create {volume}")),
            VmError::VolumeInUse { vm, .. } => Some(format!(
                "banger-vm stop {vm}   (or, to remove it: banger-vm delete {vm})"
            )),
            VmError::NoHelper { .. } => {
                Some("set BANGER_LIBEXEC_DIR, or build it: cargo xtask build".into())
            }
            VmError::NoKvm { .. } => Some("leave --accel out to use emulation".into()),
            VmError::NotEnough { what: "memory", .. } => {
                Some("choose less with --memory, or stop another VM".into())
            }
            VmError::NotEnough { .. } => Some("free some space, or choose another --store".into()),
            VmError::Boot { vm, .. } => Some(format!("banger-vm logs {vm}")),
            VmError::NotRunning { vm } => Some(format!("banger-vm start {vm}")),
            VmError::PortInUse { .. } => Some(
                "choose another port of the host; 0 is any that is free, as in --publish 0:80"
                    .into(),
            ),
            VmError::Running { vm } => Some(format!("banger-vm stop {vm}   (or add --force)")),
            VmError::Architecture { host, .. } => {
                Some(format!("banger-image pull --platform linux/{host} …"))
            }
            VmError::Monitor { vm, .. } | VmError::Unattended { vm, .. } => {
                Some(format!("banger-vm kill {vm}"))
            }
            _ => None,
        }
    }
}

/// Each problem on a line of its own, with what caused it.
fn list(problems: &[VmError]) -> String {
    let mut text = format!("{} things are in the way:", problems.len());
    for problem in problems {
        text.push_str(&format!("\n  {problem}"));
        let mut cause = std::error::Error::source(problem);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
    }
    text
}

/// For `map_err`: an I/O error with what was tried and on what.
pub(crate) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl Fn(io::Error) -> VmError {
    let path = path.into();
    move |source| VmError::Io {
        action,
        path: path.clone(),
        source,
    }
}
