//! The command line of `banger-vm`; doc comments are the help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::ValueHint;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use lib_cli::Global;
use lib_config::Settings;
use lib_model::{ByteSize, OperationId, Publish, VmName};
use lib_vm::{Accel, DiskKind, InitChoice, Network, ShareRequest, VolumeRequest};

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
    /// Change what a VM is made of, from its next start on
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
    Show(VmsArgs),
    /// Print the console of a VM
    Logs(LogsArgs),
    /// Wait until VMs have ended
    Wait(VmsArgs),
}

/// What a VM is made of.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct MachineArgs {
    /// Kernel to boot: a name or id; the configured or newest one if not given
    #[arg(long, value_name = "KERNEL", add = ArgValueCompleter::new(lib_cli::kernels))]
    pub(crate) kernel: Option<String>,

    /// Number of virtual processors [default: vm.cpus of the configuration, else 1]
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,

    /// Memory, such as 512M or 4G [default: vm.memory, else 1G]
    #[arg(long, short, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,

    /// Largest size of the VM's own disk; only what is written takes space [default: vm.disk, else 10G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<ByteSize>,

    /// Network of the VM: bridge (an address of its own, by banger-netd), user (NAT, no privileges) or none
    /// [default: vm.network, else bridge with --nat where banger-netd answers, else user]
    #[arg(long, value_name = "MODE", value_parser = ["bridge", "user", "none"])]
    pub(crate) network: Option<String>,

    /// On the bridge, let the VM out into the world through this host's address
    #[arg(long)]
    pub(crate) nat: bool,

    /// Processor: auto (KVM where it works), kvm, or tcg (emulation) [default: vm.accel, else auto]
    #[arg(long, value_name = "KIND", value_parser = ["auto", "kvm", "tcg"])]
    pub(crate) accel: Option<String>,

    /// How that disk lies over the image: overlay (joined in the guest), snapshot (one block device, in the
    /// guest), copy, or qcow2 [default: overlay]
    #[arg(long, value_name = "KIND", value_parser = ["overlay", "snapshot", "copy", "qcow2"])]
    pub(crate) disk_kind: Option<String>,

    /// Give the home directory a disk of its own of this size, filled from the image at first
    #[arg(long, value_name = "SIZE")]
    pub(crate) work_disk: Option<ByteSize>,

    /// Mount a volume, which outlives VMs; made with 10G when it is missing
    #[arg(long = "volume", value_name = "NAME:PATH[:ro]", value_parser = volume)]
    pub(crate) volumes: Vec<VolumeRequest>,

    /// Show a directory of this machine to the guest, read-only unless :rw
    #[arg(long = "mount", value_name = "HOST:GUEST[:rw]", value_parser = share)]
    pub(crate) shares: Vec<ShareRequest>,

    /// Of the configuration.
    #[arg(skip)]
    pub(crate) mount_roots: Vec<PathBuf>,

    /// Set an environment variable of everything that runs in the VM; NAME alone passes this machine's value on
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) vm_env: Vec<String>,

    /// Pass this machine's proxy variables on (http_proxy, https_proxy, no_proxy and the like)
    #[arg(long)]
    pub(crate) env_proxy: bool,

    /// Process 1: the image's own init (image), another program of it (a path), banger's agent (none), or by
    /// what the image is made for (auto) [default: auto; for run, none]
    #[arg(long, value_name = "INIT", value_parser = init)]
    pub(crate) init: Option<InitChoice>,

    /// When to fetch the image from its registry
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Pull::Missing)]
    pub(crate) pull: Pull,

    /// Give up when the guest is not ready after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) boot_timeout: u64,

    /// Shut the VM down when nobody has used it for so long, such as 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) idle_stop: Option<Duration>,

    /// Lead a TCP port of this host to one of the VM: [ADDRESS:]HOSTPORT:GUESTPORT, on 127.0.0.1 unless an
    /// address says otherwise; HOSTPORT 0 is any that is free
    #[arg(long, short, value_name = "PORTS")]
    pub(crate) publish: Vec<Publish>,
}

impl MachineArgs {
    /// The flags that would be parsed to this.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--boot-timeout={}", self.boot_timeout)];
        flags.extend(self.cpus.iter().map(|cpus| format!("--cpus={cpus}")));
        flags.extend(
            self.memory
                .iter()
                .map(|size| format!("--memory={}", size.0)),
        );
        flags.extend(self.disk.iter().map(|size| format!("--disk={}", size.0)));
        flags.extend(self.network.iter().map(|mode| format!("--network={mode}")));
        flags.extend(self.nat.then(|| "--nat".to_owned()));
        flags.extend(self.accel.iter().map(|kind| format!("--accel={kind}")));
        flags.extend(
            self.disk_kind
                .iter()
                .map(|kind| format!("--disk-kind={kind}")),
        );
        flags.extend(
            self.work_disk
                .iter()
                .map(|size| format!("--work-disk={}", size.0)),
        );
        flags.extend(
            self.volumes
                .iter()
                .map(|volume| format!("--volume={volume}")),
        );
        flags.extend(self.shares.iter().map(|share| format!("--mount={share}")));
        flags.extend(
            self.vm_env
                .iter()
                .map(|variable| format!("--vm-env={variable}")),
        );
        flags.extend(self.env_proxy.then(|| "--env-proxy".to_owned()));
        flags.extend(self.init.iter().map(|init| format!("--init={init}")));
        if let Some(pull) = self.pull.to_possible_value() {
            flags.push(format!("--pull={}", pull.get_name()));
        }
        flags.extend(
            self.kernel
                .iter()
                .map(|kernel| format!("--kernel={kernel}")),
        );
        let ports = self.publish.iter();
        flags.extend(ports.map(|publish| format!("--publish={publish}")));
        let idle = self.idle_stop.iter();
        flags.extend(idle.map(|idle| format!("--idle-stop={}s", idle.as_secs())));
        flags
    }

    /// What was not typed becomes what is configured.
    pub(crate) fn configured(mut self, config: &Settings) -> Self {
        let vm = &config.vm;
        self.cpus = self.cpus.or(vm.cpus);
        self.memory = self.memory.or(vm.memory);
        self.disk = self.disk.or(vm.disk);
        let network = vm.network.map(|mode| mode.as_str().to_owned());
        self.network = self.network.or(network);
        let accel = vm.accel.map(|kind| kind.as_str().to_owned());
        self.accel = self.accel.or(accel);
        self.mount_roots.clone_from(&vm.mount_roots);
        let kernel = config.default.kernel.as_ref().map(ToString::to_string);
        self.kernel = self.kernel.or(kernel);
        self
    }

    pub(crate) fn network(&self) -> Network {
        parsed(self.network.as_deref())
    }

    pub(crate) fn disk_kind(&self) -> DiskKind {
        parsed(self.disk_kind.as_deref())
    }

    pub(crate) fn accel(&self) -> Accel {
        parsed(self.accel.as_deref())
    }
}

/// The words were checked when the command line was parsed.
fn parsed<T: FromStr + Default>(word: Option<&str>) -> T {
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// When no image of that name is here
    Missing,
    /// Every time
    Always,
    /// Not at all
    Never,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without IMAGE, image records are read from standard input; without those, the configured default image
is used, or one that is made from the host's own distribution.

Examples:
  banger-image pull alpine:3.20 | banger-vm create --name dev
  banger-vm create --name big --cpus 4 --memory 8G debian:12
  banger-vm create --name web nginx:1            runs the image's command, as do its later starts
  banger-vm create debian:12 -- sleep infinity   runs this instead; its output is in `banger-vm logs`
  banger-vm create --detach debian:12 | banger-vm op wait")]
pub(crate) struct CreateArgs {
    /// Name, id or registry reference; - reads records from standard input
    #[arg(add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) image: Option<String>,

    /// Name of the VM, a DNS label; two random words if not given
    #[arg(long, short)]
    pub(crate) name: Option<VmName>,

    /// Do not boot it
    #[arg(long)]
    pub(crate) no_start: bool,

    /// Print the record of an operation at once, and go on in the background
    #[arg(long)]
    pub(crate) detach: bool,

    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    /// Command that runs in the VM from each start on; the image's own if not given
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
}

/// The process behind `create --detach`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Its operation; the lock of it is standard input
    pub(crate) operation: OperationId,

    #[command(flatten)]
    pub(crate) create: CreateArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A running VM goes on as it is; `banger-vm restart` applies the change.

Examples:
  banger-vm set dev --memory 4G --cpus 2
  banger-vm set dev --disk 40G --dry-run
  banger-vm set dev --name old-dev")]
pub(crate) struct SetArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Another name, a DNS label
    #[arg(long)]
    pub(crate) name: Option<VmName>,

    /// Number of virtual processors
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,

    /// Memory, such as 512M or 4G
    #[arg(long, short, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,

    /// Largest size of the VM's own disk; it can only grow
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<ByteSize>,

    /// Network of the VM: bridge (an address of its own), user (NAT, no privileges) or none
    #[arg(long, value_name = "MODE", value_parser = ["bridge", "user", "none"])]
    pub(crate) network: Option<String>,

    /// Processor: auto (KVM where it works), kvm, or tcg (emulation)
    #[arg(long, value_name = "KIND", value_parser = ["auto", "kvm", "tcg"])]
    pub(crate) accel: Option<String>,

    /// Shut the VM down when nobody has used it for so long, such as 30m or 2h; 0 for never
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) idle_stop: Option<Duration>,

    /// Change nothing; say what would be, and whether it needs a restart
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    /// Change nothing; say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    pub(crate) verb: VolumeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume; one that is there stays as it is
    Create {
        /// Name of the volume
        name: VmName,

        /// Largest size; only what is written takes space
        #[arg(long, value_name = "SIZE", default_value_t = lib_vm::DEFAULT_VOLUME)]
        size: ByteSize,
    },
    /// List volumes and the VMs that have them
    #[command(visible_alias = "ls")]
    List,
    /// Remove volumes that no VM has
    #[command(visible_alias = "rm")]
    Delete {
        /// Names of volumes
        #[arg(required = true)]
        names: Vec<VmName>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OpArgs {
    #[command(subcommand)]
    pub(crate) verb: OpVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OpVerb {
    /// List operations; those that ended are kept for a day
    #[command(visible_alias = "ls")]
    List,
    /// Show how far operations are
    Status(OperationsArgs),
    /// Wait until operations have ended, and end with their status
    Wait(OperationsArgs),
    /// End operations and remove what they made
    Cancel(OperationsArgs),
}

/// Operations by id, or from standard input.
#[derive(Debug, Args)]
pub(crate) struct OperationsArgs {
    /// Ids, or names of the VMs being made; - or nothing reads records from standard input
    #[arg(value_name = "OPERATION", add = ArgValueCompleter::new(lib_cli::operations))]
    pub(crate) operations: Vec<String>,
}

fn volume(text: &str) -> Result<VolumeRequest, String> {
    text.parse()
}

/// Relative to where the command was typed, also for a worker.
fn share(text: &str) -> Result<ShareRequest, String> {
    let mut share: ShareRequest = text.parse()?;
    share.source = std::path::absolute(&share.source).map_err(|error| error.to_string())?;
    Ok(share)
}

fn init(text: &str) -> Result<InitChoice, String> {
    text.parse()
}

/// A number with a unit: `90s`, `30m`, `2h`, `1d`; without one, seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        unit => return Err(format!("`{unit}` is no unit of time (s, m, h, d)")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is no time, such as 90s, 30m or 2h"))
}

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
A directory goes into a directory that is there, and else becomes the target; DIR/. is its content.
- is a tar archive on standard input or output. Paths in the VM begin at /.

Examples:
  banger-vm cp src dev:/root
  banger-vm cp dev:/var/log/. logs
  banger-vm cp dev:/etc - | tar t")]
pub(crate) struct CopyArgs {
    /// Sources, then the target; one side is VM:PATH
    #[arg(value_name = "SRC… DST", required = true, num_args = 2.., value_hint = ValueHint::AnyPath,
          add = ArgValueCompleter::new(lib_cli::vm_paths))]
    pub(crate) paths: Vec<OsString>,

    /// Keep owners, set-user-id bits and all attributes, as far as permitted
    #[arg(long, short)]
    pub(crate) archive: bool,

    /// Follow a source that is a symbolic link
    #[arg(long, short = 'L')]
    pub(crate) follow_link: bool,

    /// Whose rights count in the VM, by name or number, with an optional group
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// Refuse more content from the VM than this [default: what its disk, image and memory can hold]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<ByteSize>,
}

/// VMs by name, or from standard input.
#[derive(Debug, Args)]
pub(crate) struct VmsArgs {
    /// Names or ids; - or nothing reads records from standard input
    #[arg(value_name = "VM", add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vms: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Give up when the guest is not ready after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) boot_timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// How many seconds the guest has before it is killed
    #[arg(long, short, value_name = "SECONDS", default_value_t = 20)]
    pub(crate) grace: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) vms: VmsArgs,

    /// Kill VMs that run
    #[arg(long, short)]
    pub(crate) force: bool,

    /// Succeed when there is no such VM
    #[arg(long)]
    pub(crate) if_exists: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Show stopped VMs too (they are shown unless standard output is a terminal table of --running)
    #[arg(long, short, hide = true)]
    pub(crate) all: bool,

    /// Show only VMs that live
    #[arg(long, conflicts_with = "all")]
    pub(crate) running: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name or id of the VM
    #[arg(add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vm: String,

    /// Print only the last N lines
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) tail: Option<usize>,

    /// Print what the VMM and the monitor said instead of the console
    #[arg(long)]
    pub(crate) vmm: bool,

    /// Go on until the VM ends
    #[arg(long, short, conflicts_with = "vmm")]
    pub(crate) follow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        for wrong in ["", "m", "3w", "-1s", "1.5h", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

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
