//! Elements go to the kernel as messages; what it then has is what nft(8) would have loaded.

use std::fs;

use banger_tests::{Netd, Netns, Sandbox, eventually};
use lib_net::{Client, GroupName, PrivilegedOps};
use nix::sys::signal::Signal;

use super::life::PATIENCE;
use super::{connect, names, reserve, sandbox, vm};

#[test]
fn what_is_changed_is_what_would_be_loaded() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let mut taps = Vec::new();
    for number in 0..20 {
        reserve(&mut ops, number);
        taps.push(ops.attach(vm(number)).unwrap());
    }
    let group = |name: &str| GroupName::try_from(name).ok();
    // In and out, from one to another, released and reserved again.
    for number in 0..20 {
        ops.nat(vm(number), number % 2 == 0).unwrap();
        ops.group(vm(number), group(["a", "b", "c"][number as usize % 3]))
            .unwrap();
    }
    for number in 0..10 {
        ops.nat(vm(number), number % 3 == 0).unwrap();
        let next = if number % 4 == 0 {
            None
        } else {
            group(["b", "c"][number as usize % 2])
        };
        ops.group(vm(number), next).unwrap();
    }
    for number in [3, 4, 15] {
        ops.release(vm(number)).unwrap();
    }
    reserve(&mut ops, 4);
    taps.push(ops.attach(vm(4)).unwrap());

    let changed = netns.state(&sandbox);
    let source = netns.run(&sandbox, "nft -j list set bridge banger source");
    assert_eq!(source.ok().matches("10.83.0.").count(), 18, "{source}");
    netd.kill();
    // A new daemon loads all as text.
    let _netd = Netd::start(&sandbox, &netns, "");
    assert_eq!(netns.state(&sandbox), changed);
}

#[test]
fn a_change_starts_no_program() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    ops.up().unwrap();
    // How many processes the daemon has started and waited for is in what they used (proc_pid_stat(5), cminflt).
    let faults = || {
        let stat = format!("/proc/{}/stat", netd.running().pid());
        let stat = std::fs::read_to_string(stat).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.collect::<Vec<_>>()[8].parse::<u64>().unwrap()
    };
    let before = faults();
    assert!(before > 0, "the rules were loaded by nft");
    reserve(&mut ops, 1);
    let (_, _tap) = ops.attach(vm(1)).unwrap();
    ops.nat(vm(1), true).unwrap();
    ops.group(vm(1), GroupName::try_from("web").ok()).unwrap();
    ops.release(vm(1)).unwrap();
    assert_eq!(faults(), before);
}

/// System calls, and bytes that went and came with them.
type Cost = (usize, u64, u64);

/// What the daemon did for each request of a verb, from the last byte that it read of it to its line of the audit, which
/// comes before the answer.
fn costs(trace: &str, verb: &str) -> Vec<Cost> {
    let mut costs = Vec::new();
    let mut cost = Cost::default();
    let audit = format!(r#""{{\"audit\":\"{verb}\""#);
    for line in trace.lines() {
        let Some((call, result)) = line.rsplit_once(" = ") else {
            continue;
        };
        let bytes = result.split(' ').next();
        let bytes = bytes.and_then(|word| word.parse::<u64>().ok());
        let (Some(name), Some(bytes)) = (call.split('(').next(), bytes) else {
            continue;
        };
        // Only a caller's bytes are read with this flag.
        if name.ends_with("recvmsg") && call.contains("MSG_CMSG_CLOEXEC") {
            cost = Cost::default();
            continue;
        }
        if call.contains(&audit) {
            costs.push(cost);
            continue;
        }
        cost.0 += 1;
        match ["read", "recv", "getdents"]
            .iter()
            .any(|word| name.contains(word))
        {
            true => cost.2 += bytes,
            false => cost.1 += bytes,
        }
    }
    costs
}

/// The least of each verb: interfaces that come up now and then are followed meanwhile.
fn traced(sandbox: &Sandbox, netd: &Netd, ops: &mut Client) -> [Cost; 2] {
    let log = sandbox.path("trace");
    let calls = "read,write,pread64,pwrite64,sendto,sendmsg,recvfrom,recvmsg,getdents64,fdatasync,fsync,rename";
    let strace = sandbox.start(&format!(
        "exec strace -f -s 64 -e trace={calls} -o {} -p {}",
        log.display(),
        netd.running().pid()
    ));
    strace.wait_for_stderr("attached");
    for round in 0..8 {
        assert!(ops.nat(vm(1), round % 2 == 0).expect("it is reserved").0);
        let group = (round % 2 == 0).then(|| GroupName::try_from("web").expect("a label"));
        assert!(ops.group(vm(1), group).expect("it is reserved").0);
    }
    strace.signal(Signal::SIGINT);
    strace.finish();
    let trace = fs::read_to_string(log).expect("strace wrote it");
    ["nat", "group"].map(|verb| {
        let costs = costs(&trace, verb);
        assert_eq!(costs.len(), 8, "{trace}");
        costs.into_iter().min().expect("there are eight")
    })
}

#[test]
fn a_change_costs_the_same_however_many_vms_there_are() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let mut taps = Vec::new();
    let mut attach = |ops: &mut Client, until: u32| {
        for number in u32::try_from(taps.len()).expect("a few")..until {
            reserve(ops, number);
            taps.push(ops.attach(vm(number)).expect("it is reserved").1);
        }
    };
    attach(&mut ops, 3);
    let few = traced(&sandbox, &netd, &mut ops);
    attach(&mut ops, 60);
    let many = traced(&sandbox, &netd, &mut ops);
    println!("calls, bytes sent and written, bytes received and read: {few:?}");
    assert_eq!(few, many);
    // A line of the journal, two messages to the kernel, and no file of all VMs.
    for (calls, sent, received) in many {
        assert!(
            calls < 20 && (100..2000).contains(&sent) && received < 10_000,
            "{many:?}"
        );
    }
    // The file of names follows.
    ops.nat(vm(1), true).unwrap();
    eventually("the names say so", PATIENCE, || {
        let record = names(&netd).records.into_iter().find(|r| r.vm == vm(1))?;
        record.nat.then_some(())
    });
}
