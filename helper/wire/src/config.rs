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
    /// Absent: loopback only.
    pub network: Option<Network>,
    /// Defaults of every exec, from the image's configuration.
    pub process: Process,
    /// Run the image's entry point when ready.
    pub entrypoint: Vec<String>,
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
    /// One writable disk.
    Disk {
        /// Mounted read-write.
        image: Disk,
    },
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
