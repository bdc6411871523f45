//! The records that commands print with `--json` and pass to each other through pipes.
//!
//! One line each: `{"kind":"image","schema":1,…}`. Fields are only ever added; a reader ignores
//! what it does not know.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::dns_record::{AnswerRecord, NameRecord, RouteRecord};
use crate::guest_record::{
    CopyRecord, EventRecord, PingRecord, PublishedRecord, SocketRecord, StatsRecord,
};
use crate::sync_record::{SyncRecord, WatchRecord};
use crate::workspace_record::{ChangeRecord, ExportRecord, WorkspaceRecord};
use crate::{ByteSize, Digest, ImageId, KernelId, KernelName, OperationId, VmId, VmName};

/// Version of the records; raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// Any record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// An image.
    Image(ImageRecord),
    /// A kernel.
    Kernel(KernelRecord),
    /// A VM.
    Vm(VmRecord),
    /// An operation.
    Operation(OperationRecord),
    /// A blob of images.
    Blob(BlobRecord),
    /// What a copy came to.
    Copy(CopyRecord),
    /// A socket of a guest.
    Socket(SocketRecord),
    /// A port of a guest that the host has.
    Published(PublishedRecord),
    /// What a VM uses.
    Stats(StatsRecord),
    /// One round trip to an agent.
    Ping(PingRecord),
    /// Something that happened to a VM.
    Event(EventRecord),
    /// The network of VMs.
    Network(NetworkRecord),
    /// A VM's place in it.
    Address(AddressRecord),
    /// Something that was proven, or not.
    Check(CheckRecord),
    /// A disk that belongs to no VM.
    Volume(VolumeRecord),
    /// A VM's names on the host.
    Name(NameRecord),
    /// What a server of names answered.
    Answer(AnswerRecord),
    /// How the host's resolver gets to names of VMs.
    Route(RouteRecord),
    /// An OCI layout that was written.
    Layout(LayoutRecord),
    /// A repository in a guest.
    Workspace(WorkspaceRecord),
    /// A file of a workspace that changed.
    Change(ChangeRecord),
    /// What came out of a workspace.
    Export(ExportRecord),
    /// A file that changed in a guest just now.
    Watch(WatchRecord),
    /// What a guest was given of its owner's.
    Sync(SyncRecord),
}

impl Record {
    /// The word in the record's `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Record::Image(_) => "image",
            Record::Kernel(_) => "kernel",
            Record::Vm(_) => "vm",
            Record::Operation(_) => "operation",
            Record::Blob(_) => "blob",
            Record::Copy(_) => "copy",
            Record::Socket(_) => "socket",
            Record::Published(_) => "published",
            Record::Stats(_) => "stats",
            Record::Ping(_) => "ping",
            Record::Event(_) => "event",
            Record::Network(_) => "network",
            Record::Address(_) => "address",
            Record::Check(_) => "check",
            Record::Volume(_) => "volume",
            Record::Name(_) => "name",
            Record::Answer(_) => "answer",
            Record::Route(_) => "route",
            Record::Layout(_) => "layout",
            Record::Workspace(_) => "workspace",
            Record::Change(_) => "change",
            Record::Export(_) => "export",
            Record::Watch(_) => "watch",
            Record::Sync(_) => "sync",
        }
    }

    /// The id, whatever the kind; what has none of its own has its VM's.
    pub fn id(&self) -> &str {
        match self {
            Record::Image(image) => image.id.as_str(),
            Record::Kernel(kernel) => kernel.id.as_str(),
            Record::Vm(vm) => vm.id.as_str(),
            Record::Operation(operation) => operation.id.as_str(),
            Record::Blob(blob) => blob.digest.as_str(),
            Record::Copy(copy) => copy.id.as_str(),
            Record::Socket(socket) => socket.id.as_str(),
            Record::Published(port) => port.id.as_str(),
            Record::Stats(stats) => stats.id.as_str(),
            Record::Ping(ping) => ping.id.as_str(),
            Record::Event(event) => &event.id,
            Record::Network(network) => &network.bridge,
            Record::Address(address) => address.id.as_str(),
            Record::Check(check) => &check.name,
            Record::Volume(volume) => &volume.name,
            Record::Name(name) => name.id.as_str(),
            Record::Answer(answer) => &answer.name,
            Record::Route(route) => &route.link,
            Record::Layout(layout) => layout.digest.as_str(),
            Record::Workspace(workspace) => workspace.id.as_str(),
            Record::Change(change) => change.id.as_str(),
            Record::Export(export) => export.id.as_str(),
            Record::Watch(change) => change.id.as_str(),
            Record::Sync(sync) => sync.id.as_str(),
        }
    }
}

/// Each kind of record is a [`Record`].
macro_rules! kinds {
    ($($kind:ident($record:ty)),+ $(,)?) => {$(
        impl From<$record> for Record {
            fn from(record: $record) -> Record {
                Record::$kind(record)
            }
        }
    )+};
}

kinds! {
    Workspace(WorkspaceRecord),
    Change(ChangeRecord),
    Export(ExportRecord),
    Watch(WatchRecord),
    Sync(SyncRecord),
    Image(ImageRecord),
    Kernel(KernelRecord),
    Vm(VmRecord),
    Blob(BlobRecord),
    Layout(LayoutRecord),
    Volume(VolumeRecord),
    Name(NameRecord),
    Answer(AnswerRecord),
    Route(RouteRecord),
    Operation(OperationRecord),
    Copy(CopyRecord),
    Socket(SocketRecord),
    Published(PublishedRecord),
    Stats(StatsRecord),
    Ping(PingRecord),
    Event(EventRecord),
    Network(NetworkRecord),
    Address(AddressRecord),
    Check(CheckRecord),
}

/// An image in the store: a file system and how to run what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: ImageId,
    /// Names that point to it, sorted; the first one is the one to show. May be empty.
    pub names: Vec<String>,
    /// Digest of the manifest, or of the content for images that never had one.
    pub digest: Digest,
    /// Where it came from: a reference, or a description of the import.
    pub source: String,
    /// OCI architecture, such as `amd64`.
    pub architecture: String,
    /// File system type of the image file: `ext4` or `erofs`.
    pub filesystem: String,
    /// Length of the image file.
    pub size: ByteSize,
    /// Bytes of it that are in use.
    pub used: ByteSize,
    /// How to run it.
    pub config: OciConfig,
    /// The kernel that it brings; VMs of it boot that one unless another is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelId>,
    /// Publication time, milliseconds since 1970.
    pub created_ms: u64,
    /// Something was made by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// An OCI layout outside of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its directory.
    pub path: String,
    /// Digest of the one manifest in it.
    pub digest: Digest,
    /// Bytes of its blobs.
    pub size: ByteSize,
    /// It was made by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// The part of an OCI image configuration that matters at run time (image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciConfig {
    /// `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// `user[:group]` by name or number; empty is root.
    #[serde(default)]
    pub user: String,
    /// Absolute path; empty is `/`.
    #[serde(default)]
    pub working_dir: String,
    /// First words of the command.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Last words of the command, replaced by what the user gives.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Name or number of the signal that asks the command to end; empty is SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
    /// What a new work disk begins with: a directory or a tar archive of the image, by its label
    /// `org.banger.work-seed`; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub work_seed: String,
    /// What a NixOS system has its kernel told (`boot.kernelParams`): printable, without braces. No
    /// registry's image has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_parameters: Vec<String>,
}

/// A kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: KernelId,
    /// Unique name.
    pub name: KernelName,
    /// `uname -r` of it, read from the kernel or its package.
    pub release: String,
    /// Architecture in OCI's words, such as `amd64`.
    pub architecture: String,
    /// Digest of the imported file.
    pub digest: Digest,
    /// Where it came from.
    pub source: String,
    /// An uncompressed ELF kernel is there.
    pub vmlinux: bool,
    /// Number of modules in its module image; 0 when it has none.
    pub modules: u64,
    /// Publication time, milliseconds since 1970.
    pub created_ms: u64,
    /// Something was made by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// A VM: what was asked for, and its state at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: VmId,
    /// Unique name.
    pub name: VmName,
    /// State now, as the kernel tells it.
    pub state: VmState,
    /// Its image.
    pub image: ImageId,
    /// The image's name when the VM was made.
    pub image_name: String,
    /// Its kernel.
    pub kernel: KernelId,
    /// Number of virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Largest size of its own disk.
    pub disk: ByteSize,
    /// How that lies over the image: `overlay`, `snapshot`, `copy` or `qcow2`.
    #[serde(default)]
    pub disk_kind: String,
    /// Process 1: `none` is the agent, `detect` the image's init where it has one, a path that program.
    #[serde(default)]
    pub init: String,
    /// `bridge`, `user` or `none`.
    pub network: String,
    /// On the bridge, where others reach it.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// `qemu`.
    pub vmm: String,
    /// Stopped by its monitor after so many seconds without use.
    #[serde(default)]
    pub idle_stop_s: Option<u64>,
    /// Process id of the VMM while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Creation time, milliseconds since 1970.
    pub created_ms: u64,
    /// Start of the current run, milliseconds since 1970.
    #[serde(default)]
    pub started_ms: Option<u64>,
    /// Published ports, as `ADDRESS:PORT:GUESTPORT/tcp`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Where its disks and logs are.
    #[serde(default)]
    pub directory: Option<std::path::PathBuf>,
    /// Where its sockets are while it runs.
    #[serde(default)]
    pub runtime: Option<std::path::PathBuf>,
    /// Why its last run ended, in one word; nothing while it runs, and in lists.
    #[serde(default)]
    pub exit: Option<String>,
    /// Something was done by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// A blob in the store: manifest, configuration or layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Digest of it, or of what it will be.
    pub digest: Digest,
    /// Its length, or what is here of it.
    pub size: ByteSize,
    /// What it is good for.
    pub state: BlobState,
    /// Names or ids of the images that have it.
    #[serde(default)]
    pub images: Vec<String>,
    /// It was removed by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// The bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// [`SCHEMA`].
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
    /// [`SCHEMA`].
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
    /// [`SCHEMA`].
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

/// A disk that belongs to no VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Unique name.
    pub name: String,
    /// Largest size.
    pub size: ByteSize,
    /// What it takes on the host.
    pub used: ByteSize,
    /// Names of the VMs that have it.
    #[serde(default)]
    pub vms: Vec<String>,
    /// It was made or removed by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// What a blob is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlobState {
    /// Images have it.
    Used,
    /// No image has it; another pull may.
    Unused,
    /// The beginning of a blob whose download ended early, or goes on.
    Partial,
}

impl std::fmt::Display for BlobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            BlobState::Used => "used",
            BlobState::Unused => "unused",
            BlobState::Partial => "partial",
        })
    }
}

/// Work that goes on without the command that began it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: OperationId,
    /// What is being done: `create`.
    pub operation: String,
    /// Name of the VM, or what it is made of while it has no name.
    pub name: String,
    /// The VM, once it is made.
    #[serde(default)]
    pub vm: Option<VmId>,
    /// State now: it is running exactly as long as its process lives.
    pub state: OperationState,
    /// What its process is, or was last, busy with.
    pub stage: String,
    /// How far the stage is, in bytes or entries.
    pub done: u64,
    /// Of how many, where that is known.
    #[serde(default)]
    pub total: Option<u64>,
    /// When it began, milliseconds since 1970.
    pub created_ms: u64,
    /// When it ended, milliseconds since 1970.
    #[serde(default)]
    pub finished_ms: Option<u64>,
    /// Exit status that the command would have ended with.
    #[serde(default)]
    pub status: Option<u8>,
    /// Why it failed; the causes follow.
    #[serde(default)]
    pub error: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Something was done by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// State of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// Its process lives.
    Running,
    /// It did what was asked.
    Done,
    /// It failed, or its process was killed.
    Failed,
    /// It was cancelled, and nothing of it remains.
    Cancelled,
}

impl std::fmt::Display for OperationState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            OperationState::Running => "running",
            OperationState::Done => "done",
            OperationState::Failed => "failed",
            OperationState::Cancelled => "cancelled",
        })
    }
}

/// State of a VM, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// Nothing runs.
    Stopped,
    /// The VMM runs, the guest is not ready.
    Starting,
    /// The guest serves commands.
    Running,
    /// A stop is under way.
    Stopping,
    /// The VMM runs without its monitor; stop or kill it.
    Orphaned,
}

impl std::fmt::Display for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            VmState::Stopped => "stopped",
            VmState::Starting => "starting",
            VmState::Running => "running",
            VmState::Stopping => "stopping",
            VmState::Orphaned => "orphaned",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_newer_minor_version_is_read() {
        let line = format!(
            r#"{{"kind":"kernel","schema":1,"id":"00112233445566aa","name":"k","release":"6.1","architecture":"amd64",
            "digest":"sha256:{}","source":"x.deb","vmlinux":true,"modules":3,"created_ms":1,"new_field":[1]}}"#,
            "0".repeat(64)
        );
        let record: Record = serde_json::from_str(&line).unwrap();
        assert_eq!((record.kind(), record.id()), ("kernel", "00112233445566aa"));
        let text = serde_json::to_string(&record).unwrap();
        assert!(
            text.starts_with(r#"{"kind":"kernel","schema":1,"id":"#),
            "{text}"
        );
    }
}
