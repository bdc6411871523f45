//! The command line of `banger`; doc comments are the help.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::system::SystemCommand;

/// Images and microVMs, Nix- and OCI-first
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "`banger vm list` is `banger-vm list`."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Images and kernels (banger-image)
    #[command(disable_help_flag = true)]
    Image {
        /// Arguments of banger-image
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Virtual machines (banger-vm)
    #[command(disable_help_flag = true)]
    Vm {
        /// Arguments of banger-vm
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// The bridge network of VMs (banger-net)
    #[command(disable_help_flag = true)]
    Net {
        /// Arguments of banger-net
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Repositories in VMs (banger-ws)
    #[command(disable_help_flag = true)]
    Ws {
        /// Arguments of banger-ws
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make banger a part of this machine
    #[command(subcommand)]
    System(SystemCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the settings in force
    Show(ShowArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Files, the later one wins: /etc/banger/config.toml, $XDG_CONFIG_HOME/banger/config.toml; then
variables such as BANGER_VM_CPUS for vm.cpus; then flags. BANGER_CONFIG names other files, with
colons between them.

Examples:
  banger config show --origin
  banger config show --toml > ~/.config/banger/config.toml")]
pub(crate) struct ShowArgs {
    /// Say where each was set
    #[arg(long)]
    pub(crate) origin: bool,

    /// Print one JSON record per line, as without a terminal
    #[arg(long, conflicts_with = "toml")]
    pub(crate) json: bool,

    /// Print a configuration file, as on a terminal
    #[arg(long)]
    pub(crate) toml: bool,
}
