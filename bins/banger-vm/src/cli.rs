//! The command line of `banger-vm`; doc comments are the help.

mod copy;
mod create;
mod machine;
mod operation;
mod port;
mod process;
mod report;
mod ssh;
mod time;
mod up;
mod vms;
mod volume;

use clap::{Parser, Subcommand};
use lib_cli::Global;

pub(crate) use copy::CopyArgs;
pub(crate) use create::{CreateArgs, WorkerArgs};
pub(crate) use machine::{MachineArgs, ProxyChoice, Pull};
pub(crate) use operation::{OpArgs, OpVerb, OperationsArgs};
pub(crate) use port::{PortsArgs, PublishArgs};
pub(crate) use process::{ExecArgs, ProcessArgs, RunArgs, ToolArgs};
pub(crate) use report::{EventsArgs, LogsArgs, PingArgs, StatsArgs};
pub(crate) use ssh::{SshArgs, SshConfigArgs, SshKnownHostsArgs, SshProxyArgs};
pub(crate) use up::UpArgs;
pub(crate) use vms::{DeleteArgs, ListArgs, ReconcileArgs, SetArgs, StartArgs, StopArgs, VmsArgs};
pub(crate) use volume::{VolumeArgs, VolumeVerb};

/// Make, run and end microVMs
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  banger-image pull debian:12 | banger-vm create --name dev
  banger-vm exec dev -- uname -a
  banger-vm run debian:12 -- sh -c 'make test'    ends with make's status, leaves nothing

Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 busy, 70 bug. `run`, `exec` and `ssh` end with the
guest command's status: 128+n for signal n, 124 on --timeout, 126 not executable, 127 not found,
125 for every failure of banger itself, 255 when the connection to the guest is lost."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a VM and boot it
    Create(CreateArgs),
    /// Make the VM that a file describes, or make it fit, and boot it
    Up(UpArgs),
    /// Run a command in a new VM, then remove the VM
    Run(RunArgs),
    /// Run a command in a running VM
    Exec(ExecArgs),
    /// Log in to a running VM by SSH, or run a command there
    Ssh(SshArgs),
    /// Connect standard input and output to a VM's SSH server: the ProxyCommand of ssh
    SshProxy(SshProxyArgs),
    /// Make `ssh NAME.vm`, scp, sftp and rsync work, by one line in ~/.ssh/config
    SshConfig(SshConfigArgs),
    #[command(hide = true)]
    SshKnownHosts(SshKnownHostsArgs),
    /// Copy files between this host and a VM
    Cp(CopyArgs),
    /// List who listens in VMs
    Ports(PortsArgs),
    /// Lead TCP ports of this host to a VM, from now on and at each start
    Publish(PublishArgs),
    /// Undo `publish`
    Unpublish(PublishArgs),
    /// Show what VMs use
    #[command(visible_alias = "top")]
    Stats(StatsArgs),
    /// Measure the way to the agents of VMs and back
    Ping(PingArgs),
    /// Show what happened to VMs
    Events(EventsArgs),
    /// Boot stopped VMs
    Start(StartArgs),
    /// Shut VMs down
    Stop(StopArgs),
    /// Shut VMs down and boot them again
    Restart(StopArgs),
    /// End VMs at once
    Kill(VmsArgs),
    /// Remove VMs and their disks
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Change what a VM is made of
    Set(SetArgs),
    /// Remove what `run` left when it was killed
    Prune,
    /// Mend what crashes left; no other command needs it
    Reconcile(ReconcileArgs),
    /// Manage volumes
    Volume(VolumeArgs),
    /// Follow what `create --detach` began
    Op(OpArgs),
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// List VMs
    #[command(visible_aliases = ["ls", "ps"])]
    List(ListArgs),
    /// Show everything about VMs
    #[command(visible_alias = "inspect")]
    Show(VmsArgs),
    /// Print the console of a VM
    Logs(LogsArgs),
    /// Wait until VMs have ended
    Wait(VmsArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_given_what_the_command_was_given() {
        let lines = [
            "banger-vm create x",
            "banger-vm create x --cpus 3 --memory 300M --disk 3G --network bridge --nat --accel tcg --pull never \
             --boot-timeout 7 --kernel k --idle-stop 90m -p 8080:80 -p [::1]:1:2 --init /lib/systemd/systemd \
             --disk-kind copy --work-disk 1G --volume v:/v --volume w:/w:ro --mount /a:/b --mount /c:/d:rw \
             --vm-env A=b --env-proxy",
        ];
        for line in lines {
            let create = |cli: Cli| match cli.command {
                Command::Create(args) => args.machine,
                other => panic!("{other:?}"),
            };
            let typed = create(Cli::parse_from(line.split_whitespace()));
            let mut passed = vec!["banger-vm".to_owned(), "create".to_owned(), "x".to_owned()];
            passed.extend(typed.flags());
            assert_eq!(create(Cli::parse_from(passed)), typed);
        }
    }
}
