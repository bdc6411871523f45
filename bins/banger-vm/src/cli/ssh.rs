//! `ssh` and what the ssh client calls.

use std::path::PathBuf;

use clap::Args;
use clap::builder::ValueHint;
use clap_complete::engine::ArgValueCompleter;

#[derive(Debug, Args)]
#[command(after_help = "\
Runs the distribution's ssh. It reads no configuration of yours unless -F names one; options given with
-o win over banger's. Ends with the command's status, 255 when the connection is lost. One COMMAND
argument is a line for the guest's shell; several are a program and its arguments.

Examples:
  banger-vm ssh dev
  banger-vm ssh dev -- make -C /root/src test
  banger-vm ssh -L 8080:localhost:80 -N dev
  banger-vm ssh --guest-sshd --user admin dev       the image's own server, pinned when first seen")]
pub(crate) struct SshArgs {
    /// Name or id of the VM
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vm: String,

    /// User in the guest [default: the image's own, else root]
    #[arg(long, short = 'l')]
    pub(crate) user: Option<String>,

    /// Read this ssh configuration
    #[arg(long, short = 'F', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// Set an option of ssh_config(5)
    #[arg(long, short, value_name = "OPTION")]
    pub(crate) option: Vec<String>,

    /// Forward a local port or socket to the guest, as ssh -L
    #[arg(long, short = 'L', value_name = "FROM:TO")]
    pub(crate) local_forward: Vec<String>,

    /// Forward a port or socket of the guest to here, as ssh -R
    #[arg(long, short = 'R', value_name = "FROM:TO")]
    pub(crate) remote_forward: Vec<String>,

    /// Listen as a SOCKS proxy into the guest, as ssh -D
    #[arg(long, short = 'D', value_name = "PORT")]
    pub(crate) dynamic_forward: Vec<String>,

    /// Lend the guest your key agent
    #[arg(long, short = 'A')]
    pub(crate) forward_agent: bool,

    /// Give the command a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,

    /// Run nothing; for forwarding only
    #[arg(long, short = 'N')]
    pub(crate) no_command: bool,

    /// Log in to the image's own SSH server, at this TCP port of the guest
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "22", require_equals = true)]
    pub(crate) guest_sshd: Option<u16>,

    /// Command and arguments; a login shell if not given
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Needs neither DNS nor a network of the guest's.

Example:
  ssh -o ProxyCommand='banger-vm ssh-proxy %h' root@dev.vm")]
pub(crate) struct SshProxyArgs {
    /// Name, NAME.vm, or id of the VM
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) host: String,

    /// Connect to this TCP port of the guest's loopback instead
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Hand the connection over instead of passing its bytes on (ssh's ProxyUseFdpass)
    #[arg(long)]
    pub(crate) fdpass: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --install or --remove, the configuration is printed, to be put where you want it. The line goes to
the top of ~/.ssh/config; nothing else in it is touched, and --remove takes it out again.
Needs OpenSSH 8.5 or newer.

Examples:
  banger-vm ssh-config --install; ssh dev.vm
  rsync -a src/ dev.vm:src/")]
pub(crate) struct SshConfigArgs {
    /// Add the line
    #[arg(long, conflicts_with = "remove")]
    pub(crate) install: bool,

    /// Take the line out again
    #[arg(long)]
    pub(crate) remove: bool,
}

/// The KnownHostsCommand of ssh.
#[derive(Debug, Args)]
pub(crate) struct SshKnownHostsArgs {
    /// As ssh names it
    pub(crate) host: String,
}
