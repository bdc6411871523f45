//! What a VM is made of.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use lib_config::Settings;
use lib_model::{ByteSize, ProxyUrl, Publish};
use lib_vm::{Accel, DiskKind, InitChoice, Network, ShareRequest, VolumeRequest};

use super::time::duration;

/// What a VM is made of.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct MachineArgs {
    /// Kernel to boot: a name or id; the image's own, the configured or the newest one if not given
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

    /// Show this machine's /nix/store to the guest, read-only, below the guest's own; what the guest builds stays on
    /// its disk
    #[arg(long)]
    pub(crate) share_store: bool,

    /// Of the configuration.
    #[arg(skip)]
    pub(crate) mount_roots: Vec<PathBuf>,

    /// Set an environment variable of everything that runs in the VM; NAME alone passes this machine's value on
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) vm_env: Vec<String>,

    /// Pass this machine's proxy variables on (http_proxy, https_proxy, no_proxy and the like)
    #[arg(long)]
    pub(crate) env_proxy: bool,

    /// Proxy for everything that runs in the VM, such as http://proxy:3128; one on this machine's loopback is
    /// reached through the user network; none for no proxy [default: vm.proxy of the configuration]
    #[arg(long, value_name = "URL", conflicts_with = "env_proxy")]
    pub(crate) proxy: Option<ProxyChoice>,

    /// Processors of this machine that the VM may keep busy, such as 0.5 or 2 (by systemd or a cgroup)
    #[arg(long, value_name = "N", value_parser = hundredths)]
    pub(crate) cpu_limit: Option<u32>,

    /// Memory of this machine that all of the VM's processes may take; what the guest has and some more
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_limit: Option<ByteSize>,

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
        flags.extend(self.share_store.then(|| "--share-store".to_owned()));
        flags.extend(
            self.vm_env
                .iter()
                .map(|variable| format!("--vm-env={variable}")),
        );
        flags.extend(self.env_proxy.then(|| "--env-proxy".to_owned()));
        flags.extend(self.proxy.iter().map(|proxy| format!("--proxy={proxy}")));
        let cpu = self.cpu_limit.iter();
        flags.extend(cpu.map(|cpu| format!("--cpu-limit={}.{:02}", cpu / 100, cpu % 100)));
        let memory = self.memory_limit.iter();
        flags.extend(memory.map(|size| format!("--memory-limit={}", size.0)));
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
        if !self.env_proxy {
            let proxy = vm.proxy.clone().map(ProxyChoice::Url);
            self.proxy = self.proxy.or(proxy);
        }
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

/// Which proxy, or none although one is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProxyChoice {
    None,
    Url(ProxyUrl),
}

impl FromStr for ProxyChoice {
    type Err = lib_model::ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(ProxyChoice::None),
            url => ProxyUrl::try_from(url).map(ProxyChoice::Url),
        }
    }
}

impl std::fmt::Display for ProxyChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProxyChoice::None => f.write_str("none"),
            ProxyChoice::Url(url) => write!(f, "{url}"),
        }
    }
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

/// The words were checked when the command line was parsed.
fn parsed<T: FromStr + Default>(word: Option<&str>) -> T {
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
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

/// A number of processors, in hundredths of one.
pub(super) fn hundredths(text: &str) -> Result<u32, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is no number of processors, such as 0.5 or 2"))?;
    let hundredths = (number * 100.0).round();
    match (0.0..=102_400.0).contains(&hundredths) && (hundredths > 0.0 || number == 0.0) {
        true => Ok(hundredths as u32),
        false => Err(format!("`{text}` is not between 0.01 and 1024")),
    }
}

fn init(text: &str) -> Result<InitChoice, String> {
    text.parse()
}
