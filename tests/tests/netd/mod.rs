//! `banger-netd` with a real kernel: in network namespaces that the tests make, with real packets.

mod callers;
mod coexistence;
mod contract;
mod disks;
mod elements;
mod faults;
mod figures;
mod firewalld;
mod foreign;
mod frames;
mod fuse;
mod jails;
mod life;
mod machine;
mod packet;
mod packets;
mod route;
mod rows;
mod units;

use std::path::Path;

use banger_tests::{Netd, Sandbox};
use lib_net::{Client, PrivilegedOps, Reservation, StoreTag, VmId, VmName};

/// The VM of a number.
fn vm(number: u32) -> VmId {
    VmId::try_from(format!("{number:08x}00000000")).expect("16 digits")
}

fn name(number: u32) -> VmName {
    VmName::try_from(format!("v{number}")).expect("a label")
}

fn store() -> StoreTag {
    lib_net::store_tag(Path::new("/a/store"))
}

fn connect(netd: &Netd) -> Client {
    Client::connect(netd.socket()).expect("the daemon listens")
}

fn reserve(ops: &mut impl PrivilegedOps, number: u32) -> Reservation {
    ops.reserve(vm(number), name(number), store())
        .expect("an address is free")
        .1
}

/// A child of ours is asked to let guests through and fails in between; it has ended when this returns.
fn admission_fails_at(mut command: std::process::Command, point: &str) {
    command.env(banger_failpoint::VARIABLE, format!("{point}=error"));
    let mut child = Client::child(command).expect("it starts");
    let refused = child.admit(true).expect_err(point);
    assert_eq!(refused.code(), Some(lib_net::Code::Failed), "{point}");
}

/// The records of `names.json`.
fn names(netd: &Netd) -> lib_net::NamesFile {
    let text = std::fs::read(netd.state().join("names.json")).expect("it is written at the start");
    serde_json::from_slice(&text).expect("it is replaced in one step")
}

/// Root's own namespaces are what everything here is made of.
fn sandbox() -> Option<Sandbox> {
    (!banger_tests::skipped("root")).then(Sandbox::empty)
}
