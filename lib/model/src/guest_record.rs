//! Records of what goes on in and around a running VM.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, VmId, VmName};

/// What a copy came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// Files, directories, links and pipes that were copied.
    pub entries: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
    /// Entries that could not be copied.
    pub left_out: u64,
}

/// A socket of a guest that others can send to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where it is bound in the guest.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// A process of the guest that has it.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The name of that process.
    #[serde(default)]
    pub process: Option<String>,
    /// Status of its answer to an HTTP request, if that was asked for.
    #[serde(default)]
    pub http: Option<u16>,
}

/// A port of the host that leads to one of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// `tcp`.
    pub protocol: String,
    /// Address of the host.
    pub address: IpAddr,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the guest.
    pub guest_port: u16,
    /// The VM runs, so somebody listens there.
    pub active: bool,
    /// It was published or unpublished by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// What a VM uses. What is not known, as of a guest that does not answer, is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// Processor time of the guest per time, in percent of one processor, since the record before, or
    /// since its boot.
    pub cpu_percent: Option<f64>,
    /// Processors of the guest.
    pub cpus: Option<u32>,
    /// Load averages of the guest.
    pub load: Option<[f64; 3]>,
    /// Time since the guest's boot, in milliseconds.
    pub uptime_ms: Option<u64>,
    /// Processes and threads of the guest.
    pub processes: Option<u32>,
    /// Memory that the guest's processes use.
    pub memory_used: Option<ByteSize>,
    /// Memory that the guest has.
    pub memory_total: Option<ByteSize>,
    /// The guest's root file system.
    pub disk_used: Option<ByteSize>,
    /// Its size.
    pub disk_size: Option<ByteSize>,
    /// What the VM's own disk takes on the host.
    pub disk_on_host: Option<ByteSize>,
    /// Bytes that the guest received.
    pub network_received: Option<ByteSize>,
    /// Bytes that it sent.
    pub network_sent: Option<ByteSize>,
    /// Bytes that it read from its disks.
    pub block_read: Option<ByteSize>,
    /// Bytes that it wrote to its disks.
    pub block_written: Option<ByteSize>,
    /// Processor time of the VMM, in milliseconds.
    pub vmm_cpu_ms: Option<u64>,
    /// Resident memory of the VMM.
    pub vmm_rss: Option<ByteSize>,
    /// The same with shared pages counted by their share.
    pub vmm_pss: Option<ByteSize>,
}

/// One round trip to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// From 1.
    pub sequence: u64,
    /// From the connection to the answer, in microseconds.
    pub round_trip_us: u64,
    /// The agent's version.
    #[serde(default)]
    pub agent: String,
    /// What a transfer came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
}

/// Bytes that were sent there and back, and looked at by nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Each way.
    pub bytes: u64,
    /// To the guest, in microseconds.
    pub sent_us: u64,
    /// From the guest, in microseconds.
    pub received_us: u64,
}

/// Something that happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: String,
    /// Its name then.
    pub name: String,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// `created`, `changed`, `deleted`, `started`, `ready`, `stopped`, `published`, `unpublished` or what a
    /// newer banger knows.
    pub event: String,
    /// Why, or what; depends on the event.
    #[serde(default)]
    pub detail: Option<String>,
}
