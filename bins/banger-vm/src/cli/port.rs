//! TCP ports.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use lib_model::Publish;

use super::vms::VmsArgs;

#[derive(Debug, Args)]
pub(crate) struct PortsArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Ask each TCP port whether it speaks HTTP
    #[arg(long)]
    pub(crate) probe: bool,

    /// Show the ports that are published on this host instead
    #[arg(long, conflicts_with = "probe")]
    pub(crate) published: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The address is 127.0.0.1 unless another is given; what listens on another one is open to whoever reaches
it. In the VM the connection comes from 127.0.0.1, or ::1 when nobody listens there.

Examples:
  banger-vm publish dev 8080:80
  banger-vm publish dev 0:80              any free port; the record says which
  banger-vm publish dev 0.0.0.0:8080:80   open to the network
  banger-vm unpublish dev 8080:80")]
pub(crate) struct PublishArgs {
    /// Name or id of the VM
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vm: String,

    /// [ADDRESS:]HOSTPORT:GUESTPORT[/tcp]
    #[arg(required = true, value_name = "PORTS")]
    pub(crate) ports: Vec<Publish>,
}
