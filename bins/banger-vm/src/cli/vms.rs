//! VMs as they are: which, and what becomes of them.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use lib_model::{ByteSize, VmName};

use super::machine::hundredths;
use super::time::duration;

/// VMs by name, or from standard input.
#[derive(Debug, Args)]
pub(crate) struct VmsArgs {
    /// Names or ids; - or nothing reads records from standard input
    #[arg(value_name = "VM", add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vms: Vec<String>,

    /// All VMs
    #[arg(long, conflicts_with = "vms")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Give up when the guest is not ready after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) boot_timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// How many seconds the guest has before it is killed
    #[arg(long, short, value_name = "SECONDS", default_value_t = 20)]
    pub(crate) grace: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Kill VMs that run
    #[arg(long, short)]
    pub(crate) force: bool,

    /// Succeed when there is no such VM
    #[arg(long)]
    pub(crate) if_exists: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Show stopped VMs too, as without it; for fingers that type it
    #[arg(long, short, hide = true)]
    pub(crate) all: bool,

    /// Show only VMs that live
    #[arg(long, conflicts_with = "all")]
    pub(crate) running: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The disk of a running VM grows at once (all kinds but snapshot); for all else a running VM goes on as it is,
and `banger-vm restart` applies the change.

Examples:
  banger-vm set dev --memory 4G --cpus 2
  banger-vm set dev --disk 40G --dry-run
  banger-vm set dev --image debian:13 --discard-root    work disk and volumes stay
  banger-vm set dev --name old-dev")]
pub(crate) struct SetArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Another name, a DNS label
    #[arg(long)]
    pub(crate) name: Option<VmName>,

    /// Number of virtual processors
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,

    /// Memory, such as 512M or 4G
    #[arg(long, short, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,

    /// Largest size of the VM's own disk; it can only grow
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<ByteSize>,

    /// Network of the VM: bridge (an address of its own), user (NAT, no privileges) or none
    #[arg(long, value_name = "MODE", value_parser = ["bridge", "user", "none"])]
    pub(crate) network: Option<String>,

    /// Processor: auto (KVM where it works), kvm, or tcg (emulation)
    #[arg(long, value_name = "KIND", value_parser = ["auto", "kvm", "tcg"])]
    pub(crate) accel: Option<String>,

    /// Shut the VM down when nobody has used it for so long, such as 30m or 2h; 0 for never
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) idle_stop: Option<Duration>,

    /// Another image for a stopped VM, pulled when it is not here; its work disk, volumes and mounts stay
    #[arg(long, value_name = "IMAGE", add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) image: Option<String>,

    /// With --image: let go of what was written to the root
    #[arg(long, requires = "image")]
    pub(crate) discard_root: bool,

    /// Another kernel: a name or id
    #[arg(long, value_name = "KERNEL", add = ArgValueCompleter::new(lib_cli::kernels))]
    pub(crate) kernel: Option<String>,

    /// Processors of this machine that the VM may keep busy, such as 0.5 or 2; 0 for no limit
    #[arg(long, value_name = "N", value_parser = hundredths)]
    pub(crate) cpu_limit: Option<u32>,

    /// Memory of this machine that all of the VM's processes may take; 0 for no limit
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_limit: Option<ByteSize>,

    /// Change nothing; say what would be, and whether it needs a restart
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    /// Change nothing; say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}
