//! The command line of `banger-vm`; doc comments are the help.

use clap::builder::ValueHint;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use lib_cli::Global;
use lib_model::{ByteSize, VmName};
use lib_vm::{Accel, Network};

/// Make, run and end microVMs
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  banger-image pull debian:12 | banger-vm create --name dev
  banger-vm exec dev -- uname -a
  banger-vm run debian:12 -- sh -c 'make test'    ends with make's status, leaves nothing

Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 busy, 70 bug. `run` and `exec` end with the
guest command's status: 128+n for signal n, 124 on --timeout, 126 not executable, 127 not found,
125 for every failure of banger itself, 255 when the connection to the guest is lost."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a VM and boot it
    Create(CreateArgs),
    /// Run a command in a new VM, then remove the VM
    Run(RunArgs),
    /// Run a command in a running VM
    Exec(ExecArgs),
    /// Boot stopped VMs
    Start(StartArgs),
    /// Shut VMs down
    Stop(StopArgs),
    /// Shut VMs down and boot them again
    Restart(StopArgs),
    /// End VMs at once
    Kill(VmsArgs),
    /// Remove VMs and their disks
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Remove what `run` left when it was killed
    Prune,
    /// List VMs
    #[command(visible_aliases = ["ls", "ps"])]
    List(ListArgs),
    /// Show everything about VMs
    Show(VmsArgs),
    /// Print the console of a VM
    Logs(LogsArgs),
    /// Wait until VMs have ended
    Wait(VmsArgs),
}

/// What a VM is made of.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineArgs {
    /// Kernel to boot: a name or id; the newest one if not given
    #[arg(long, value_name = "KERNEL", add = ArgValueCompleter::new(lib_cli::kernels))]
    pub(crate) kernel: Option<String>,

    /// Number of virtual processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,

    /// Memory, such as 512M or 4G
    #[arg(long, short, value_name = "SIZE", default_value = "1G")]
    pub(crate) memory: ByteSize,

    /// Largest size of the VM's own disk; only what is written takes space
    #[arg(long, value_name = "SIZE", default_value = "10G")]
    pub(crate) disk: ByteSize,

    /// Network of the VM: user (NAT, no privileges) or none
    #[arg(long, value_name = "MODE", default_value = "user", value_parser = ["user", "none"])]
    pub(crate) network: String,

    /// Processor: auto (KVM where it works), kvm, or tcg (emulation)
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = ["auto", "kvm", "tcg"])]
    pub(crate) accel: String,

    /// When to fetch the image from its registry
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Pull::Missing)]
    pub(crate) pull: Pull,

    /// Give up when the guest is not ready after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) boot_timeout: u64,
}

impl MachineArgs {
    pub(crate) fn network(&self) -> Network {
        self.network.parse().unwrap_or_default()
    }

    pub(crate) fn accel(&self) -> Accel {
        self.accel.parse().unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// When no image of that name is here
    Missing,
    /// Every time
    Always,
    /// Not at all
    Never,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without IMAGE, image records are read from standard input; without those, a default image is made
from the host's own distribution.

Examples:
  banger-image pull alpine:3.20 | banger-vm create --name dev
  banger-vm create --name big --cpus 4 --memory 8G debian:12")]
pub(crate) struct CreateArgs {
    /// Name, id or registry reference; - reads records from standard input
    #[arg(add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) image: Option<String>,

    /// Name of the VM, a DNS label; two random words if not given
    #[arg(long, short)]
    pub(crate) name: Option<VmName>,

    /// Do not boot it
    #[arg(long)]
    pub(crate) no_start: bool,

    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// How a command runs in the guest.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProcessArgs {
    /// Set an environment variable; NAME alone passes the host's value on
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// Working directory in the guest
    #[arg(long, short, value_name = "DIR")]
    pub(crate) workdir: Option<String>,

    /// User in the guest, by name or number, with an optional group
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// Give the command a terminal; the default when no command is given
    #[arg(long, short)]
    pub(crate) tty: bool,

    /// Give the command no standard input
    #[arg(long, short = 'N')]
    pub(crate) no_stdin: bool,

    /// End the command after this many seconds, with status 124
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger-vm run debian:12 -- uname -a
  banger-vm run -- make test                 a default image, made once
  banger-vm run --network none alpine        a shell")]
pub(crate) struct RunArgs {
    /// Name, id or registry reference; a default image if not given; - reads a record
    #[arg(add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) image: Option<String>,

    /// Name of the VM while it lives
    #[arg(long, short)]
    pub(crate) name: Option<VmName>,

    /// Keep the VM, stopped, when the command has ended
    #[arg(long)]
    pub(crate) keep: bool,

    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    #[command(flatten)]
    pub(crate) process: ProcessArgs,

    /// Command and arguments; the image's own if not given
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without VM, VM records are read from standard input, and the command gets no standard input.

Examples:
  banger-vm exec dev -- ls /
  tar c src | banger-vm exec dev -- tar x -C /root
  banger-vm create debian:12 | banger-vm exec -- uname -a")]
pub(crate) struct ExecArgs {
    /// Name or id of the VM; - reads records from standard input
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vm: Option<String>,

    #[command(flatten)]
    pub(crate) process: ProcessArgs,

    /// Command and arguments; a login shell if not given
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
}

/// VMs by name, or from standard input.
#[derive(Debug, Args)]
pub(crate) struct VmsArgs {
    /// Names or ids; - or nothing reads records from standard input
    #[arg(value_name = "VM", add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vms: Vec<String>,
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
    /// Show stopped VMs too (they are shown unless standard output is a terminal table of --running)
    #[arg(long, short, hide = true)]
    pub(crate) all: bool,

    /// Show only VMs that live
    #[arg(long, conflicts_with = "all")]
    pub(crate) running: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name or id of the VM
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vm: String,

    /// Print only the last N lines
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) tail: Option<usize>,

    /// Print what the VMM and the monitor said instead of the console
    #[arg(long)]
    pub(crate) vmm: bool,
}
