//! The network of VMs, and what was proven of it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{VmId, VmName};

/// The bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The bridge's name.
    pub bridge: String,
    /// Bridge and rules are there.
    pub up: bool,
    /// The host's address on the bridge.
    pub gateway: Ipv4Addr,
    /// Length of the network's prefix, in bits.
    pub prefix: u8,
    /// Addresses that are reserved, of all users.
    pub reserved: u32,
    /// Addresses that can still be reserved.
    pub free: u32,
    /// VMs with an interface, of all users.
    pub attached: u32,
    /// The host forwards packets.
    pub forwarding: bool,
    /// That was switched on for VMs, and ends with `down`.
    pub forwarding_is_ours: bool,
    /// Another program's firewall was told to let the bridge through, until `banger-net down`.
    #[serde(default)]
    pub admitted: bool,
    /// What is there for VMs that are gone; `banger-net gc` takes it away.
    #[serde(default)]
    pub leftovers: Vec<String>,
    /// What serves it, with its version.
    pub daemon: String,
    /// Something was done by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// A VM's place in the bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// Who owns it.
    pub uid: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: String,
    /// The host's interface for it, while it is attached.
    pub interface: String,
    /// The interface is there: the VM runs.
    pub attached: bool,
    /// It may go out into the world.
    pub nat: bool,
    /// The group whose VMs it reaches.
    #[serde(default)]
    pub group: Option<String>,
    /// When the address was reserved, milliseconds since 1970.
    pub created_ms: u64,
    /// Its machine monitor runs in a jail of the daemon's.
    #[serde(default)]
    pub jailed: bool,
    /// Block devices that the daemon made for it.
    #[serde(default)]
    pub devices: u32,
    /// Something was done by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// Something that a doctor looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// What was looked at.
    pub name: String,
    /// It is well.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// A command that helps.
    #[serde(default)]
    pub hint: Option<String>,
}
