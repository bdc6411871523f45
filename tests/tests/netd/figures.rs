//! Figures for SPEC.md; `cargo xtask bench net` prints them.

use std::time::{Duration, Instant};

use banger_tests::{Netd, Netns, Sandbox};
use lib_net::{Client, PrivilegedOps};

use super::{connect, reserve, vm};

const RUNS: u32 = 30;

fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Reservation, interface and rules of one VM more; then a change of its rules.
fn with(ops: &mut Client, vms: u32) -> (f64, f64) {
    let (mut attached, mut changed) = (Vec::new(), Vec::new());
    for number in vms..vms + RUNS {
        let start = Instant::now();
        reserve(ops, number);
        let tap = ops.attach(vm(number)).expect("it is reserved");
        attached.push(start.elapsed());
        let start = Instant::now();
        ops.nat(vm(number), true).expect("it is reserved");
        changed.push(start.elapsed());
        drop(tap);
        ops.release(vm(number)).expect("it is reserved");
    }
    (middle(attached), middle(changed))
}

#[test]
#[ignore = "measures; `cargo xtask bench net` runs it"]
fn figures() {
    let sandbox = Sandbox::empty();
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    ops.up().unwrap();
    let mut taps = Vec::new();
    for vms in [10, 250] {
        for number in u32::try_from(taps.len()).unwrap()..vms {
            reserve(&mut ops, number);
            taps.push(ops.attach(vm(number)).unwrap());
        }
        let (attached, changed) = with(&mut ops, vms);
        println!("FIGURE reserve + attach + rules with {vms} VMs|{attached:.2} ms");
        println!("FIGURE rule change with {vms} VMs|{changed:.2} ms");
    }
    let status = format!("/proc/{}/status", netd.running().pid());
    let status = std::fs::read_to_string(status).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    println!(
        "FIGURE netd, resident, with 250 VMs|{}",
        resident.unwrap().trim()
    );
}
