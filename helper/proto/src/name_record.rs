//! `names.json`, which the daemon replaces in one step whenever a name appears, disappears, starts or
//! stops. A server of names watches its directory for the rename (inotify(7), IN_MOVED_TO).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{InterfaceName, VmId, VmName};

/// Version of the file.
pub const NAMES_SCHEMA: u32 = 1;

/// The whole file. Readers ignore what they do not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesFile {
    /// [`NAMES_SCHEMA`].
    pub schema: u32,
    /// The bridge.
    pub bridge: InterfaceName,
    /// The host's address on the bridge; guests are told that it resolves names.
    pub gateway: Ipv4Addr,
    /// Length of the pool's prefix, in bits.
    pub prefix: u8,
    /// In the order in which the addresses were reserved.
    pub records: Vec<NameRecord>,
}

/// A VM with a reserved address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// Its id.
    pub vm: VmId,
    /// Its name: `<name>.<user>.vm` is always it.
    pub name: VmName,
    /// Who owns it: the user's name as a DNS label, or `u<uid>`.
    pub user: String,
    /// Who owns it.
    pub uid: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// `<name>.vm` is it: it was the first of this name.
    pub first: bool,
    /// Its interface is there: the VM runs.
    pub attached: bool,
    /// It may go out into the world, so it may ask for names there.
    #[serde(default)]
    pub nat: bool,
    /// The number of its group, whose VMs may know its name; groups of different users have different ones.
    #[serde(default)]
    pub group: Option<u16>,
}
