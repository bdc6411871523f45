//! The command line of `banger-net`; doc comments are the help.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use lib_cli::Global;
use lib_net::GroupName;

/// The bridge network of VMs
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
VMs on the bridge have addresses of their own. They reach neither each other nor this host's
services nor the world, until they are let: by a group, by nat.

Examples:
  banger-vm create --network bridge --name dev debian:12
  banger-net nat on dev                      out into the world
  banger-net group set web front back        front and back reach each other

Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 busy, 5 refused by banger-netd, 70 bug."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the bridge and its rules; VMs that start do it too
    Up,
    /// Remove the bridge and its rules; addresses stay reserved
    Down,
    /// Say how the network is
    Status,
    /// List the addresses of your VMs, and who has them
    #[command(visible_alias = "ls")]
    List,
    /// Let VMs out into the world, or not
    Nat(NatArgs),
    /// Let VMs reach each other
    #[command(subcommand)]
    Group(GroupCommand),
    /// Publish ports of a VM on this host (banger-vm publish, which needs no rights)
    #[command(disable_help_flag = true)]
    Publish {
        /// Arguments of banger-vm publish
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Give back addresses that no VM of the store has
    Gc(GcArgs),
    /// Prove that the network works
    Doctor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Through this host's address
    On,
    /// Not at all
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct NatArgs {
    /// Out, or not
    pub(crate) switch: Switch,

    #[command(flatten)]
    pub(crate) vms: VmsArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Put VMs into a group; each is in one at most
    Set(GroupSetArgs),
    /// Take VMs out of their group
    Unset(VmsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GroupSetArgs {
    /// Name of the group; it needs no making
    pub(crate) group: GroupName,

    #[command(flatten)]
    pub(crate) vms: VmsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VmsArgs {
    /// Names or ids; records of VMs are read from standard input if none is given
    #[arg(value_name = "VM", add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vms: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Leave addresses that were reserved less than this many seconds ago: their VM may be being made
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) min_age: u64,
}
