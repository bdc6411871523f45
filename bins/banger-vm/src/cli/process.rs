//! Commands in guests: `run` and `exec`.

use std::path::PathBuf;

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

    /// Give the command standard input, as it has without this; for fingers that type -it
    #[arg(long, short, conflicts_with = "no_stdin")]
    pub(crate) interactive: bool,

    /// Give the command no standard input
    #[arg(long, short = 'N')]
    pub(crate) no_stdin: bool,

    /// End the command after this many seconds, with status 124
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

/// The tools of a workspace.
#[derive(Debug, Clone, Args)]
pub(crate) struct ToolArgs {
    /// Do not have the guest's mise install the tools that the workspace asks for, and run without it
    #[arg(long)]
    pub(crate) no_bootstrap: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
DIR is a path (it has a slash, or is . or ..) of a git repository, which goes into the VM as with banger-ws
prepare; the command runs in it. When it left changes there, the VM is kept, stopped, unless --rm or
--export says otherwise, and you are told how to get them.

Examples:
  banger-vm run debian:12 -- uname -a
  banger-vm run debian:12 ./repo -- make test
  banger-vm run --export fix.patch debian:12 . -- ./fix.sh
  banger-vm run -- make test                 a default image, made once
  banger-vm run --network none alpine        a shell")]
pub(crate) struct RunArgs {
    /// Name, id or registry reference; the configured or the host's own if not given; - reads a record
    #[arg(add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) image: Option<String>,

    /// Repository that the command works on, in a copy
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "workspace")]
    pub(crate) directory: Option<PathBuf>,

    /// The same, for any directory name
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) workspace: Option<PathBuf>,

    /// Not offered; for fingers that type it
    #[arg(long, short, hide = true)]
    pub(crate) detach: bool,

    /// Remove the VM also when its workspace has changes
    #[arg(long, conflicts_with_all = ["keep", "export"])]
    pub(crate) rm: bool,

    /// Write what changed in the workspace as a patch to this file, then remove the VM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) export: Option<PathBuf>,

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

    #[command(flatten)]
    pub(crate) tools: ToolArgs,

    /// Command and arguments; the image's own if not given
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without VM, VM records are read from standard input, and the command gets no standard input.
A VM with a workspace runs the command there, unless --workdir or --no-workspace says otherwise.

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

    /// Run where a VM without a workspace would
    #[arg(long)]
    pub(crate) no_workspace: bool,

    /// Send what changed on this machine since the workspace was prepared first
    #[arg(long, conflicts_with = "no_workspace")]
    pub(crate) auto_prepare: bool,

    #[command(flatten)]
    pub(crate) tools: ToolArgs,

    /// Command and arguments; a login shell if not given
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
}
