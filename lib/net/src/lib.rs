//! The privileged operations on the host's network, as callers see them.
//!
//! One seam, [`PrivilegedOps`], with three ends: the daemon behind its socket, the same program as a
//! child on a socket pair for a caller that is root already, and a simulation in memory for tests.

mod client;
mod doctor;
mod error;
mod ops;
mod records;
mod simulated;
mod store_tag;
mod sys;

pub use banger_proto::{
    Acceleration, Code, Disk, GroupName, InterfaceName, Jail, KernelArguments, Mac, Machine,
    NAME_SERVER, NameRecord, NamesFile, NetworkStatus, PROBE, Refusal, Reply, Request, Reservation,
    Response, RouteChange, RouteStatus, SOCKET, Signal, StoreTag, VmId, VmName, ZONE,
};
pub use client::{Client, Endpoint};
pub use doctor::{More, doctor};
pub use error::NetError;
pub use ops::PrivilegedOps;
pub use records::{address_record, network_record, vm_id};
pub use simulated::Simulated;
pub use store_tag::store_tag;
