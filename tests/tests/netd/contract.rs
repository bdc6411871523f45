//! What every end of the seam does alike: the daemon, a child, the simulation.

use banger_tests::{Netd, Netns};
use lib_net::{Client, Code, GroupName, PrivilegedOps, RouteChange, Simulated};

use super::{connect, name, route, sandbox, store, vm};

fn code<T: std::fmt::Debug>(result: Result<T, lib_net::NetError>) -> Option<Code> {
    result.expect_err("it is refused").code()
}

/// One after the other, as a VM lives.
fn holds(ops: &mut impl PrivilegedOps) {
    let before = ops.status().expect("it is allowed");
    assert!(!before.up && before.reserved == 0 && before.attached == 0);
    assert!(ops.up().expect("it is allowed").0, "up makes something");
    let (changed, status) = ops.up().expect("it is allowed");
    assert!(
        !changed && status.up,
        "a second up makes nothing: {status:?}"
    );

    let (changed, first) = ops.reserve(vm(1), name(1), store()).expect("it is allowed");
    assert!(changed && !first.attached && !first.nat && first.group.is_none());
    let again = ops.reserve(vm(1), name(1), store()).expect("it is allowed");
    assert_eq!(again, (false, first.clone()));
    let (changed, renamed) = ops.reserve(vm(1), name(7), store()).expect("it is allowed");
    assert!(changed && renamed.address == first.address && renamed.name == name(7));
    let second = ops
        .reserve(vm(2), name(2), store())
        .expect("it is allowed")
        .1;
    assert_ne!(
        (second.address, second.mac, &second.interface),
        (first.address, first.mac, &first.interface)
    );

    assert_eq!(code(ops.attach(vm(3))), Some(Code::NotFound));
    let (attached, tap) = ops.attach(vm(1)).expect("it is allowed");
    assert!(attached.attached && attached.address == first.address);
    assert_eq!(code(ops.attach(vm(1))), Some(Code::Busy));
    assert_eq!(code(ops.down()), Some(Code::Busy));
    assert_eq!(ops.status().expect("it is allowed").attached, 1);
    drop(tap);
    banger_tests::eventually("it goes with its descriptor", super::life::PATIENCE, || {
        (ops.status().expect("it is allowed").attached == 0).then_some(())
    });
    let (_, _tap) = ops.attach(vm(1)).expect("it is allowed");
    assert!(ops.detach(vm(1)).expect("it is allowed").0);
    assert!(
        !ops.detach(vm(1)).expect("it is allowed").0,
        "a second detach changes nothing"
    );
    assert_eq!(code(ops.detach(vm(3))), Some(Code::NotFound));

    assert_eq!(code(ops.nat(vm(3), true)), Some(Code::NotFound));
    assert!(ops.nat(vm(1), true).expect("it is allowed").0);
    let (changed, out) = ops.nat(vm(1), true).expect("it is allowed");
    assert!(!changed && out.nat);
    let status = ops.status().expect("it is allowed");
    assert!(status.forwarding && status.forwarding_is_ours, "{status:?}");
    let group = GroupName::try_from("web").expect("it is allowed");
    assert_eq!(code(ops.group(vm(3), None)), Some(Code::NotFound));
    assert!(
        ops.group(vm(1), Some(group.clone()))
            .expect("it is allowed")
            .0
    );
    let (changed, grouped) = ops
        .group(vm(1), Some(group.clone()))
        .expect("it is allowed");
    assert!(!changed && grouped.group == Some(group));
    assert!(ops.group(vm(1), None).expect("it is allowed").0);

    let mut route = |change| ops.route(change).expect("it is allowed");
    assert!(!route(RouteChange::Look).1.up);
    assert!(!route(RouteChange::Down).0, "there is nothing to take away");
    let (changed, up) = route(RouteChange::Up);
    assert!(changed && up.up && up.zones[0] == "vm", "{up:?}");
    assert_eq!(route(RouteChange::Up), (false, up.clone()));
    assert_eq!(route(RouteChange::Look), (false, up));
    assert!(route(RouteChange::Down).0 && !route(RouteChange::Look).1.up);

    let list = ops.list().expect("it is allowed");
    let listed: Vec<_> = list.iter().map(|r| (r.vm.clone(), r.nat)).collect();
    assert_eq!(listed, [(vm(1), true), (vm(2), false)]);

    let (changed, young) = ops.gc(store(), vec![vm(1)], 3600).expect("it is allowed");
    assert!(
        !changed && young.is_empty(),
        "what is young may be being made"
    );
    let other = lib_net::store_tag(std::path::Path::new("/another"));
    assert!(
        !ops.gc(other, vec![], 0).expect("it is allowed").0,
        "another store's are left"
    );
    let (changed, lost) = ops.gc(store(), vec![vm(1)], 0).expect("it is allowed");
    assert_eq!((changed, lost.len(), &lost[0].vm), (true, 1, &vm(2)));

    let (changed, released) = ops.release(vm(1)).expect("it is allowed");
    assert!(changed && released.is_some_and(|r| r.address == first.address));
    assert_eq!(ops.release(vm(1)).expect("it is allowed"), (false, None));
    assert!(ops.down().expect("it is allowed").0);
    let (changed, after) = ops.down().expect("it is allowed");
    assert!(!changed);
    let program = before.program.clone();
    assert_eq!(after, lib_net::NetworkStatus { program, ..before });
}

#[test]
fn the_daemon_keeps_the_contract() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let before = netns.state(&sandbox);
    let stand_in = format!("--resolvectl {}", route::stand_in(&sandbox).display());
    let netd = Netd::start(&sandbox, &netns, &stand_in);
    holds(&mut connect(&netd));
    assert_eq!(netns.state(&sandbox), before, "nothing is left");
}

#[test]
fn a_child_keeps_the_contract() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let before = netns.state(&sandbox);
    let mut command = Netd::child(&sandbox, &netns, "netd");
    command.arg("--resolvectl").arg(route::stand_in(&sandbox));
    let mut child = Client::child(command).expect("it is allowed");
    holds(&mut child);
    drop(child);
    assert_eq!(netns.state(&sandbox), before, "nothing is left");
}

#[test]
fn the_simulation_keeps_the_contract() {
    holds(&mut Simulated::new(0));
}
