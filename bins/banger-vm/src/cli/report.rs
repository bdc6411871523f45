//! What VMs say and use: `logs`, `events`, `stats`, `ping`.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use lib_model::ByteSize;

use super::time::duration;
use super::vms::VmsArgs;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name or id of the VM
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vm: String,

    /// Print only the last N lines
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) tail: Option<usize>,

    /// Leave out what is older, such as 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) since: Option<Duration>,

    /// Leave out what is newer, such as 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "follow")]
    pub(crate) until: Option<Duration>,

    /// Begin each line with the time when it came, in UTC
    #[arg(long, short = 't')]
    pub(crate) timestamps: bool,

    /// Print what the VMM and the monitor said instead of the console
    #[arg(long, conflicts_with_all = ["since", "until", "timestamps"])]
    pub(crate) vmm: bool,

    /// Go on until the VM ends
    #[arg(long, short, conflicts_with = "vmm")]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger-vm events --since 1h
  banger-vm events --follow dev | jq .event")]
pub(crate) struct EventsArgs {
    /// Names or ids; those of all VMs if none is given
    #[arg(value_name = "VM", add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vms: Vec<String>,

    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,

    /// Leave out what is older, such as 30m or 2h; with --follow, what is not new, unless this is given
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) since: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A VM that does not run is shown as its monitor measured it last.

Examples:
  banger-vm stats dev
  banger-vm top --follow")]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Go on until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,

    /// Time between two looks, such as 2s
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub(crate) interval: Duration,

    /// End after so many looks
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// How often
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,

    /// Time between two
    #[arg(long, short, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(crate) interval: Duration,

    /// Send and receive so much instead, and say how fast it went
    #[arg(long, value_name = "SIZE", conflicts_with = "count")]
    pub(crate) transfer: Option<ByteSize>,
}
