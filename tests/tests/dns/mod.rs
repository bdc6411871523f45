//! Names of VMs: the real server, fed by the real daemon, in a namespace that plays the host.

mod figures;
mod guests;
mod resolvers;
mod serving;

use std::path::Path;
use std::time::Duration;

use banger_tests::{Netd, Netns, Running, Sandbox};
use lib_net::{Client, PrivilegedOps, Reservation, VmId, VmName};

/// Whatever the load, nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn vm(number: u32) -> VmId {
    VmId::try_from(format!("{number:08x}00000000")).expect("16 digits")
}

fn reserve(ops: &mut Client, number: u32, name: &str) -> Reservation {
    let name = VmName::try_from(name).expect("a label");
    let store = lib_net::store_tag(Path::new("/a/store"));
    ops.reserve(vm(number), name, store)
        .expect("an address is free")
        .1
}

fn connect(netd: &Netd) -> Client {
    Client::connect(netd.socket()).expect("the daemon listens")
}

/// A namespace with the daemon and its bridge.
fn host(sandbox: &Sandbox) -> (Netns, Netd) {
    let netns = Netns::new(sandbox);
    let netd = Netd::start(sandbox, &netns, "");
    connect(&netd).up().expect("it is allowed");
    (netns, netd)
}

/// dnsmasq(8) in the namespace as what is not ours.
fn dnsmasq(sandbox: &Sandbox, netns: &Netns, address: &str, arguments: &str) -> Running {
    let file = match arguments.contains("--conf-file") {
        true => "",
        false => "--conf-file=/dev/null",
    };
    let running = sandbox.start(&format!(
        "exec {} dnsmasq --keep-in-foreground {file} --no-resolv --no-hosts --local=/test/ --user=root --pid-file= \
         --bind-interfaces --listen-address={address} --log-facility=- {arguments}",
        netns.enter(),
    ));
    running.wait_for_stderr("started, version");
    running
}

/// What a server says: the code, then the data of its records.
fn asked(sandbox: &Sandbox, netns: &Netns, question: &str) -> String {
    let answer = netns.run(sandbox, &format!("banger-net dns query {question}"));
    let record = match answer.status {
        0 | 1 | 3 if !answer.stdout.is_empty() => answer.stdout.clone(),
        _ => panic!("{answer}"),
    };
    let record: serde_json::Value = serde_json::from_str(record.trim()).expect("a record");
    let mut said = record["code"].as_str().unwrap_or_default().to_owned();
    for record in record["records"].as_array().into_iter().flatten() {
        said += &format!(" {}", record["data"].as_str().unwrap_or_default());
    }
    said
}
