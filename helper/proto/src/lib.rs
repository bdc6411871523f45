//! What `banger-netd` and its callers say to each other.
//!
//! Sans-IO: bytes in, values out. Both sides distrust each other, so every decoder has a limit, every
//! name has one door, and an unknown field is an error. A connection begins with [`Hello`] both ways.

mod frame;
mod machine;
mod message;
mod name;
mod name_record;
mod zone;

pub use frame::{Decoder, FrameError, MAX_REPLY, MAX_REQUEST, decode, encode};
pub use machine::{Acceleration, Disk, KernelArguments, Machine};
pub use message::{
    Answer, Code, Hello, Jail, MAX_DESCRIPTORS, NetworkStatus, Refusal, Reply, Request,
    Reservation, Response, RouteChange, RouteStatus, Signal,
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

/// An address that no machine has (RFC 5737). What a guest sends there goes the way of what it sends into the world,
/// to the end of all firewalls of the host, where it is answered with "network prohibited" (RFC 1812, ICMP 3/9).
pub const PROBE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 83);
