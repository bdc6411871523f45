//! `create`, and the process behind `create --detach`.

use clap::Args;
use clap::builder::ValueHint;
use clap_complete::engine::ArgValueCompleter;
use lib_model::{OperationId, VmName};

use super::machine::MachineArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Without IMAGE, image records are read from standard input; without those, the configured default image
is used, or one that is made from the host's own distribution.

Examples:
  banger-image pull alpine:3.20 | banger-vm create --name dev
  banger-vm create --name big --cpus 4 --memory 8G debian:12
  banger-vm create --name web nginx:1            runs the image's command, as do its later starts
  banger-vm create debian:12 -- sleep infinity   runs this instead; banger-vm logs has its output
  banger-vm create --detach debian:12 | banger-vm op wait")]
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

    /// Print the record of an operation at once, and go on in the background
    #[arg(long)]
    pub(crate) detach: bool,

    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    /// Command that runs in the VM from each start on; the image's own if not given
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
}

/// The process behind `create --detach`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Its operation; the lock of it is standard input
    pub(crate) operation: OperationId,

    #[command(flatten)]
    pub(crate) create: CreateArgs,
}
