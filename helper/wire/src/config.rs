//! What the agent reads from `/banger/config.json` in its initramfs before it does anything.

use serde::{Deserialize, Serialize};

/// Where the configuration archive puts the file.
pub const PATH: &str = "/banger/config.json";
/// Where the base archive lists kernel modules, one path a line, in load order.
pub const MODULES_PATH: &str = "/banger/modules.list";

/// Configuration of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// [`crate::PROTOCOL`] of the writer.
    pub protocol: u16,
    /// A DNS label; also becomes a line of `/etc/hosts`.
    pub hostname: String,
    /// The root file system.
    pub root: Root,
    /// Serial of the disk with the kernel's modules, mounted read-only at `/lib/modules`.
    pub modules: Option<Disk>,
    /// Further disks.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Directories of the host.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// The mount point of the share that is the host's Nix store: it is seen at `/nix/store`, too, below what the
    /// image has there and what the guest writes.
    #[serde(default)]
    pub host_store: Option<String>,
    /// Absent: loopback only.
    pub network: Option<Network>,
    /// Defaults of every exec, from the image's configuration.
    pub process: Process,
    /// Run the image's entry point when ready.
    pub entrypoint: Vec<String>,
    /// Number of the signal that asks the entry point to end (image-spec, config.md, `StopSignal`).
    #[serde(default = "sigterm")]
    pub stop_signal: i32,
    /// Who is process 1 once the root is there.
    #[serde(default)]
    pub init: Init,
    /// Host time at launch, nanoseconds since 1970, for guests without a trustworthy clock.
    pub clock_ns: u64,
    /// Fresh random bytes of the host, hexadecimal; mixed into the guest's entropy pool.
    pub entropy: String,
    /// Absent: no SSH server.
    #[serde(default)]
    pub ssh: Option<Ssh>,
}

/// Who the guest's SSH server is, and whom it lets in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssh {
    /// The private host key in OpenSSH's format (its PROTOCOL.key), not encrypted.
    pub host_key: String,
    /// Public keys that may log in as any user: lines of `authorized_keys` without options (sshd(8)).
    pub authorized_keys: Vec<String>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh")
            .field("host_key", &"…")
            .field("authorized_keys", &self.authorized_keys)
            .finish()
    }
}

fn sigterm() -> i32 {
    15
}

/// Process 1 of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Init {
    /// The agent.
    #[default]
    Agent,
    /// The image's own, when it has one that can run a machine; else the agent.
    Detect,
    /// This program, with the agent beside it; the boot fails without it.
    Program {
        /// An absolute path inside the image, and arguments.
        argv: Vec<String>,
    },
}

/// A virtio block device, found by `/sys/block/*/serial` (at most 20 bytes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The device's serial.
    pub serial: String,
    /// File system type, as in mount(2).
    pub filesystem: String,
}

/// How `/` is put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Root {
    /// A read-only image and a writable data disk, joined by overlayfs.
    Overlay {
        /// Mounted read-only.
        image: Disk,
        /// Holds `upper` and `work`.
        data: Disk,
    },
    /// One writable disk; its ext4 file system is grown to its end.
    Disk {
        /// Mounted read-write.
        image: Disk,
    },
    /// One block device: the image, and over it what was written (the kernel's
    /// admin-guide/device-mapper/snapshot.rst). Its ext4 file system is grown to its end.
    Snapshot {
        /// Only read.
        image: Disk,
        /// Serial of the disk with the exceptions; all zero at first.
        exceptions: String,
        /// Size of the device, in bytes; at least the image's.
        bytes: u64,
    },
}

/// Modules that are in the initramfs but loaded only for what needs them, by their names with
/// underscores.
pub mod on_demand {
    /// For [`super::Root::Snapshot`].
    pub const SNAPSHOT: [&str; 4] = ["dm_mod", "dm_bufio", "dm_snapshot", "dm_zero"];
    /// For [`super::ShareKind::Plan9`].
    pub const PLAN9: [&str; 5] = ["netfs", "fscache", "9pnet", "9pnet_virtio", "9p"];
    /// For [`super::ShareKind::Virtiofs`].
    pub const VIRTIOFS: [&str; 2] = ["fuse", "virtiofs"];
}

/// A disk of its own with an ext4 file system, which is grown to the disk's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Serial of the disk.
    pub serial: String,
    /// Absolute path, made when it is missing; empty for the home directory of the image's user.
    pub path: String,
    /// Mounted read-only.
    pub read_only: bool,
    /// A new volume first gets a copy of what the image has there, or of its /etc/skel.
    #[serde(default)]
    pub seed: bool,
    /// That is this directory or tar archive of the image instead; empty for none.
    #[serde(default)]
    pub seed_from: String,
}

/// How a directory of the host comes into the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareKind {
    /// 9P over virtio (the kernel's filesystems/9p.rst).
    #[default]
    Plan9,
    /// FUSE over virtio (the kernel's filesystems/virtiofs.rst).
    Virtiofs,
}

/// A directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How it comes here.
    #[serde(default)]
    pub kind: ShareKind,
    /// The device's mount tag, at most 31 bytes.
    pub tag: String,
    /// Absolute path; made when it is missing.
    pub path: String,
    /// Mounted read-only; the device refuses writes, too.
    pub read_only: bool,
}

/// Static network configuration of the one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Hardware address, `52:54:00:…`; names the interface.
    pub mac: String,
    /// IPv4 address.
    pub address: std::net::Ipv4Addr,
    /// Length of the network's prefix, in bits.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: std::net::Ipv4Addr,
    /// Resolvers for `/etc/resolv.conf`.
    pub resolvers: Vec<std::net::IpAddr>,
}

/// The image's defaults for a process (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`, by name or number; empty means root.
    pub user: String,
    /// Absolute; empty means `/`.
    pub cwd: String,
}
