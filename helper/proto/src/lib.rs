//! What `banger-netd` and its callers say to each other.
//!
//! Sans-IO: bytes in, values out. Both sides distrust each other, so every decoder has a limit, every
//! name has one door, and an unknown field is an error. A connection begins with [`Hello`] both ways.

mod frame;
mod message;
mod name;
mod name_record;
mod zone;

pub use frame::{Decoder, FrameError, MAX_REPLY, MAX_REQUEST, decode, encode};
pub use message::{
    Answer, Code, Hello, NetworkStatus, Refusal, Reply, Request, Reservation, Response,
    RouteChange, RouteStatus,
};
pub use name::{GroupName, InterfaceName, Mac, NameError, StoreTag, VmId, VmName};
pub use name_record::{NAMES_SCHEMA, NameRecord, NamesFile};
pub use zone::{NAME_SERVER, ROUTE_LINK, ZONE, reverse_labels, reverse_zones};

/// Version of the protocol; raised on an incompatible change.
pub const PROTOCOL: u16 = 1;

/// Where the daemon listens, unless it is told otherwise.
pub const SOCKET: &str = "/run/banger/netd.sock";

/// What the daemon's interfaces for VMs begin with; the rest is the beginning of the VM's id.
pub const TAP_PREFIX: &str = "bgt";
