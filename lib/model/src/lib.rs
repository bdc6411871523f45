//! Names, digests, records and error conventions that every part shares. No I/O but random ids.

mod digest;
mod dns_record;
mod failure;
mod filesystem;
mod guest_record;
mod id;
mod image_record;
mod name;
mod nearest;
mod network_record;
mod progress;
mod proxy;
mod publish;
mod record;
mod reference;
mod size;
mod sync_record;
mod vm_record;
mod workspace_record;

pub use digest::{Digest, DigestError};
pub use dns_record::{AnswerRecord, AnsweredRecord, NameRecord, RouteRecord};
pub use failure::{Diagnose, Exit};
pub use filesystem::Filesystem;
pub use guest_record::{
    CopyRecord, EventRecord, PingRecord, PublishedRecord, SocketRecord, StatsRecord, Transfer,
};
pub use id::{IdError, ImageId, KernelId, OperationId, VmId, WorkspaceId};
pub use image_record::{BlobRecord, BlobState, ImageRecord, KernelRecord, LayoutRecord, OciConfig};
pub use name::{KernelName, NameError, VmName};
pub use nearest::nearest;
pub use network_record::{AddressRecord, CheckRecord, NetworkRecord};
pub use progress::{Progress, Silent, Step};
pub use proxy::{ProxyUrl, ProxyUrlError};
pub use publish::Publish;
pub use record::{Record, SCHEMA};
pub use reference::{Reference, ReferenceError};
pub use size::{ByteSize, SizeError};
pub use sync_record::{SyncRecord, WatchRecord};
pub use vm_record::{OperationRecord, OperationState, VmRecord, VmState, VolumeRecord};
pub use workspace_record::{ChangeRecord, ChangeStatus, ExportRecord, Risk, WorkspaceRecord};
