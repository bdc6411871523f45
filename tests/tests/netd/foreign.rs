//! What was there before: never touched, and named.

use banger_tests::{Netd, Netns, Sandbox};
use lib_net::{Code, NetError, PrivilegedOps, Refusal};

use super::{connect, reserve, sandbox, vm};

fn refusal<T: std::fmt::Debug>(result: Result<T, NetError>) -> Refusal {
    match result {
        Err(NetError::Refused(refusal)) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

/// `line` makes something in the namespace; `up` or `attach` refuses with this code and these words.
fn refused(sandbox: &Sandbox, line: &str, arguments: &str, code: Code, words: &str) {
    let netns = Netns::new(sandbox);
    netns.run(sandbox, line).ok();
    let before = netns.state(sandbox);
    let netd = Netd::start(sandbox, &netns, arguments);
    let mut ops = connect(&netd);
    reserve(&mut ops, 1);
    for refusal in [refusal(ops.up()), refusal(ops.attach(vm(1)))] {
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(
            refusal.message.contains(words),
            "{refusal:?} without {words:?}"
        );
        assert!(refusal.hint.is_some(), "{refusal:?}");
    }
    ops.release(vm(1)).expect("it is there");
    assert_eq!(netns.state(sandbox), before);
}

#[test]
fn an_interface_or_a_table_of_somebody_else_is_not_touched() {
    let Some(sandbox) = sandbox() else { return };
    for (line, words) in [
        (
            "ip link add banger0 type bridge",
            "there is an interface banger0",
        ),
        (
            "nft add table inet banger",
            "there is a table `inet banger`",
        ),
        (
            "nft add table bridge banger",
            "there is a table `bridge banger`",
        ),
    ] {
        refused(&sandbox, line, "", Code::NotOurs, words);
    }
}

#[test]
fn a_tap_of_somebody_else_is_not_touched() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let interface = reserve(&mut ops, 1).interface;
    ops.up().unwrap();
    netns
        .run(&sandbox, &format!("ip tuntap add {interface} mode tap"))
        .ok();
    let before = netns.state(&sandbox);
    let refusal = refusal(ops.attach(vm(1)));
    assert_eq!(refusal.code, Code::NotOurs, "{refusal:?}");
    assert!(!ops.detach(vm(1)).unwrap().0);
    assert!(!ops.gc(super::store(), vec![vm(1)], 0).unwrap().0);
    assert_eq!(netns.state(&sandbox), before);
    ops.release(vm(1)).unwrap();
    let left = netns.run(&sandbox, &format!("ip link show {interface}"));
    left.ok();
}

#[test]
fn a_persistent_tap_of_ours_without_a_reservation_is_garbage() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    ops.up().unwrap();
    let before = netns.state(&sandbox);
    let orphan = "bgt0000000f0000";
    netns
        .run(&sandbox, &format!("ip tuntap add {orphan} mode tap"))
        .ok();
    let alias = "banger-netd vm=0000000f00000000 uid=0";
    netns
        .run(&sandbox, &format!("ip link set {orphan} alias '{alias}'"))
        .ok();
    assert!(ops.gc(super::store(), vec![], 0).unwrap().0);
    assert_eq!(netns.state(&sandbox), before);
}

#[test]
fn addresses_in_use_elsewhere_are_refused() {
    let Some(sandbox) = sandbox() else { return };
    for (line, route) in [
        ("ip address add 10.83.7.1/24 dev lo", "10.83.7."),
        ("ip route add 10.0.0.0/8 dev lo", "10.0.0.0/8"),
        ("ip route add 10.83.255.255/32 dev lo", "10.83.255.255/32"),
    ] {
        refused(&sandbox, line, "", Code::Overlap, route);
    }
    // A default route leads everywhere, and overlaps with nothing.
    let netns = Netns::new(&sandbox);
    netns.run(&sandbox, "ip route add default dev lo").ok();
    netns
        .run(&sandbox, "ip address add 10.83.0.1/16 dev lo")
        .ok();
    let netd = Netd::start(&sandbox, &netns, "--pool 10.84.0.0/24");
    assert_eq!(connect(&netd).up().unwrap().1.prefix, 24);
}

#[test]
fn without_nft_nothing_is_made() {
    let Some(sandbox) = sandbox() else { return };
    let words = "/nonexistent/nft is not there: install nftables";
    refused(
        &sandbox,
        "true",
        "--nft /nonexistent/nft",
        Code::Failed,
        words,
    );
}

#[test]
fn names_that_no_interface_can_have_are_refused() {
    let Some(sandbox) = sandbox() else { return };
    let program = Netd::program(&sandbox);
    let (socket, state) = (sandbox.netd_socket(), sandbox.path("netd"));
    for name in ["a234567890123456", "a/b", "../a", "..", "A", "''"] {
        let line = format!(
            "{} --bridge {name} --listen {} --state {}",
            program.display(),
            socket.display(),
            state.display()
        );
        let refused = sandbox.sh(&line);
        refused
            .exits(2)
            .says("not the name of an interface: 1 to 15");
    }
    assert!(!state.exists() && !socket.exists(), "nothing was made");
}

#[test]
fn addresses_outside_of_the_pool_are_not_used() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--pool 10.9.8.0/29");
    let mut ops = connect(&netd);
    let old = reserve(&mut ops, 1).address;
    ops.nat(vm(1), true).unwrap();
    netd.kill();
    // The administrator chooses another one.
    let netd = Netd::start(&sandbox, &netns, "--pool 10.7.0.0/24");
    let mut ops = connect(&netd);
    let before = netns.state(&sandbox);
    let refusal = refusal(ops.attach(vm(1)));
    assert_eq!(refusal.code, Code::Exhausted, "{refusal:?}");
    let words = format!("the address {old} of the VM v1 is outside of the pool 10.7.0.0/24");
    assert!(refusal.message.contains(&words), "{refusal:?}");
    assert_eq!(netns.state(&sandbox), before);
    ops.up().unwrap();
    let new = reserve(&mut ops, 1);
    assert_eq!(new.address.octets()[..3], [10, 7, 0]);
    assert!(new.nat);
    let rules = netns.run(&sandbox, "nft list table inet banger");
    assert!(rules.ok().contains(&new.address.to_string()), "{rules}");
    assert!(!rules.ok().contains(&old.to_string()), "{rules}");
    ops.attach(vm(1)).unwrap();
}

#[test]
fn a_pool_has_an_end() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--pool 10.9.8.0/29");
    let mut ops = connect(&netd);
    let mut addresses: Vec<_> = (0..5).map(|n| reserve(&mut ops, n).address).collect();
    let refusal = refusal(ops.reserve(vm(9), super::name(9), super::store()));
    assert_eq!(refusal.code, Code::Exhausted);
    assert!(
        refusal
            .message
            .contains("all 5 addresses of the pool 10.9.8.0/29"),
        "{refusal:?}"
    );
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 5);
    ops.release(vm(3)).unwrap();
    reserve(&mut ops, 9);
}
