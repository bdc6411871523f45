//! The records that commands print with `--json` and pass to each other through pipes.
//!
//! One line each: `{"kind":"image","schema":1,…}`. Fields are only ever added; a reader ignores
//! what it does not know.

use serde::{Deserialize, Serialize};

use crate::dns_record::{AnswerRecord, NameRecord, RouteRecord};
use crate::guest_record::{
    CopyRecord, EventRecord, PingRecord, PublishedRecord, SocketRecord, StatsRecord,
};
use crate::image_record::{BlobRecord, ImageRecord, KernelRecord, LayoutRecord};
use crate::network_record::{AddressRecord, CheckRecord, NetworkRecord};
use crate::sync_record::{SyncRecord, WatchRecord};
use crate::vm_record::{OperationRecord, VmRecord, VolumeRecord};
use crate::workspace_record::{ChangeRecord, ExportRecord, WorkspaceRecord};

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
