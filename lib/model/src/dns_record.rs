//! Records about names of VMs.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{VmId, VmName};

/// A VM's names on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it can be called, the shortest first.
    pub names: Vec<String>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Who owns it: a user's name, or `u<uid>`.
    pub user: String,
    /// Who owns it.
    pub uid: u32,
    /// It runs, so its names are known.
    pub attached: bool,
}

/// What a server of names answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The name that was asked for.
    pub name: String,
    /// The type that was asked for.
    pub r#type: String,
    /// Who answered.
    pub server: IpAddr,
    /// At which port.
    pub port: u16,
    /// The name of the code, such as `NOERROR`.
    pub code: String,
    /// The server answers from its own zones.
    pub authoritative: bool,
    /// `udp`, or `tcp`.
    pub transport: String,
    /// From the question to the answer.
    pub microseconds: u64,
    /// The records that answer.
    pub records: Vec<AnsweredRecord>,
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredRecord {
    /// Whose it is.
    pub name: String,
    /// Its type.
    pub r#type: String,
    /// How long it may be remembered, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: String,
}

/// How names of VMs get from the host's resolver to their server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// systemd-resolved asks the server about the zones.
    pub up: bool,
    /// The link that it is told about.
    pub link: String,
    /// The server, at port 53.
    pub server: Ipv4Addr,
    /// The zones.
    pub zones: Vec<String>,
    /// Something was done by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}
