//! Commands in guests: `run` and `exec`.

use clap::Args;
use clap::builder::ValueHint;
use clap_complete::engine::ArgValueCompleter;
use lib_model::VmName;

use super::machine::MachineArgs;

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
    /// Name, id or registry reference; the configured or the host's own if not given; - reads a record
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
