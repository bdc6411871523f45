//! The command line of `banger-net`; doc comments are the help.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use lib_cli::Global;
use lib_net::GroupName;

use crate::commands::dns::At;

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
  banger-net dns query dev                   the address of dev.vm

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
    /// Names of VMs: serve them, ask for them
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Tell this host's resolver about names of VMs
    #[command(subcommand)]
    Route(RouteCommand),
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
    Doctor {
        /// Let the bridge through the firewall of another program, such as Docker's or firewalld; `down` takes it back
        #[arg(long)]
        fix: bool,
    },
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

#[derive(Debug, Subcommand)]
pub(crate) enum DnsCommand {
    /// Serve names of VMs to this host, and all names to guests, until it is stopped
    Serve(ServeArgs),
    /// Ask the server for a name or an address
    Query(QueryArgs),
    /// List the names of VMs on the bridge
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Let systemd-resolved ask the server of names about VMs
    Up,
    /// Let it ask no more
    Down,
    /// Say how it is, and what to write where there is no systemd-resolved
    Status,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It needs no rights. systemd passes it the sockets (banger-dns.socket, banger-dns-guests.socket); by hand:

  banger-net dns serve --listen 127.0.0.1:5353
  banger-net dns query --server 127.0.0.1:5353 dev

This host is told of `dev.vm` and `dev.USER.vm` while the VM dev runs, of addresses of the bridge, and of
nothing else. A guest is told of itself and of its group (banger-net group), and of whatever this host's
own resolver knows; names of VMs never go there.")]
pub(crate) struct ServeArgs {
    /// Serve this host there, by UDP and TCP; may be repeated
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(crate) listen: Vec<At>,

    /// Serve guests there, by UDP and TCP; may be repeated
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(crate) listen_guests: Vec<At>,

    /// Ask this server for what is no VM's name, instead of those of resolv.conf; may be repeated
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(crate) upstream: Vec<At>,

    /// This host's resolvers
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,

    /// The names, which banger-netd writes [default: /var/lib/banger/netd/names.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) names: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 there is an answer, 3 there is no such name or nothing of that type, 1 the server refuses or
does not answer.")]
pub(crate) struct QueryArgs {
    /// A VM, a name with dots, or an address
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) name: String,

    /// A, AAAA, PTR, SOA, …
    pub(crate) r#type: Option<String>,

    /// Ask this server [default: 127.83.0.53]
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(crate) server: Option<At>,

    /// Ask by TCP
    #[arg(long)]
    pub(crate) tcp: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Leave addresses that were reserved less than this many seconds ago: their VM may be being made
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) min_age: u64,
}
