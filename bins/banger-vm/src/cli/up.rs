//! `up`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::ValueHint;

#[derive(Debug, Args)]
#[command(after_help = "\
The file NAME.toml is about the VM NAME. Its keys are `image`, `command`, and the long flags of `create`:

  image = \"debian:12\"
  cpus = 2
  memory = \"2G\"
  publish = [\"8080:80\"]

A VM that is there already is changed as far as `set` and `publish` can. What needs another VM, such as
another image, is said and left: its disk is not thrown away.

Examples:
  banger-vm up dev.toml
  banger-vm up --foreground /etc/banger/vms/dev.toml     for a service manager (sd_notify)")]
pub(crate) struct UpArgs {
    /// Description of the VM, called NAME.toml
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Stay until the VM has ended; shut it down on SIGTERM, SIGINT or SIGHUP
    #[arg(long)]
    pub(crate) foreground: bool,

    /// How many seconds the guest then has before it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = crate::commands::stop::DEFAULT_GRACE.as_secs())]
    pub(crate) grace: u64,
}
