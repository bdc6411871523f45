//! Elements go to the kernel as messages; what it then has is what nft(8) would have loaded.

use banger_tests::{Netd, Netns};
use lib_net::{GroupName, PrivilegedOps};

use super::{connect, reserve, sandbox, vm};

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
