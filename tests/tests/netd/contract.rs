//! What every end of the seam does alike: the daemon, a child, the simulation.

use banger_tests::{Netd, Netns};
use lib_net::{Client, Code, GroupName, PrivilegedOps, Simulated};

use super::{connect, name, sandbox, store, vm};

fn code<T: std::fmt::Debug>(result: Result<T, lib_net::NetError>) -> Option<Code> {
    result.expect_err("it is refused").code()
}

/// One after the other, as a VM lives.
fn holds(ops: &mut impl PrivilegedOps) {
    let before = ops.status().unwrap();
    assert!(!before.up && before.reserved == 0 && before.attached == 0);
    assert!(ops.up().unwrap().0, "up makes something");
    let (changed, status) = ops.up().unwrap();
    assert!(
        !changed && status.up,
        "a second up makes nothing: {status:?}"
    );

    let (changed, first) = ops.reserve(vm(1), name(1), store()).unwrap();
    assert!(changed && !first.attached && !first.nat && first.group.is_none());
    let again = ops.reserve(vm(1), name(1), store()).unwrap();
    assert_eq!(again, (false, first.clone()));
    let (changed, renamed) = ops.reserve(vm(1), name(7), store()).unwrap();
    assert!(changed && renamed.address == first.address && renamed.name == name(7));
    let second = ops.reserve(vm(2), name(2), store()).unwrap().1;
    assert_ne!(
        (second.address, second.mac, &second.interface),
        (first.address, first.mac, &first.interface)
    );

    assert_eq!(code(ops.attach(vm(3))), Some(Code::NotFound));
    let (attached, tap) = ops.attach(vm(1)).unwrap();
    assert!(attached.attached && attached.address == first.address);
    assert_eq!(code(ops.attach(vm(1))), Some(Code::Busy));
    assert_eq!(code(ops.down()), Some(Code::Busy));
    assert_eq!(ops.status().unwrap().attached, 1);
    drop(tap);
    banger_tests::eventually("it goes with its descriptor", super::life::PATIENCE, || {
        (ops.status().unwrap().attached == 0).then_some(())
    });
    let (_, _tap) = ops.attach(vm(1)).unwrap();
    assert!(ops.detach(vm(1)).unwrap().0);
    assert!(
        !ops.detach(vm(1)).unwrap().0,
        "a second detach changes nothing"
    );
    assert_eq!(code(ops.detach(vm(3))), Some(Code::NotFound));

    assert_eq!(code(ops.nat(vm(3), true)), Some(Code::NotFound));
    assert!(ops.nat(vm(1), true).unwrap().0);
    let (changed, out) = ops.nat(vm(1), true).unwrap();
    assert!(!changed && out.nat);
    let status = ops.status().unwrap();
    assert!(status.forwarding && status.forwarding_is_ours, "{status:?}");
    let group = GroupName::try_from("web").unwrap();
    assert_eq!(code(ops.group(vm(3), None)), Some(Code::NotFound));
    assert!(ops.group(vm(1), Some(group.clone())).unwrap().0);
    let (changed, grouped) = ops.group(vm(1), Some(group.clone())).unwrap();
    assert!(!changed && grouped.group == Some(group));
    assert!(ops.group(vm(1), None).unwrap().0);

    let list = ops.list().unwrap();
    let listed: Vec<_> = list.iter().map(|r| (r.vm.clone(), r.nat)).collect();
    assert_eq!(listed, [(vm(1), true), (vm(2), false)]);

    let (changed, young) = ops.gc(store(), vec![vm(1)], 3600).unwrap();
    assert!(
        !changed && young.is_empty(),
        "what is young may be being made"
    );
    let other = lib_net::store_tag(std::path::Path::new("/another"));
    assert!(
        !ops.gc(other, vec![], 0).unwrap().0,
        "another store's are left"
    );
    let (changed, lost) = ops.gc(store(), vec![vm(1)], 0).unwrap();
    assert_eq!((changed, lost.len(), &lost[0].vm), (true, 1, &vm(2)));

    let (changed, released) = ops.release(vm(1)).unwrap();
    assert!(changed && released.is_some_and(|r| r.address == first.address));
    assert_eq!(ops.release(vm(1)).unwrap(), (false, None));
    assert!(ops.down().unwrap().0);
    let (changed, after) = ops.down().unwrap();
    assert!(!changed);
    let program = before.program.clone();
    assert_eq!(after, lib_net::NetworkStatus { program, ..before });
}

#[test]
fn the_daemon_keeps_the_contract() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let before = netns.state(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    holds(&mut connect(&netd));
    assert_eq!(netns.state(&sandbox), before, "nothing is left");
}

#[test]
fn a_child_keeps_the_contract() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let before = netns.state(&sandbox);
    let mut child = Client::child(Netd::child(&sandbox, &netns, "netd")).unwrap();
    holds(&mut child);
    drop(child);
    assert_eq!(netns.state(&sandbox), before, "nothing is left");
}

#[test]
fn the_simulation_keeps_the_contract() {
    holds(&mut Simulated::new(0));
}
