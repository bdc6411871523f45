//! Firewalls of other programs: found by a packet, and changed only when that is asked for.

use std::net::Ipv4Addr;

use banger_tests::{Netd, Netns, Sandbox};
use lib_net::{Client, PrivilegedOps, Simulated};
use serde_json::Value;

use super::packet::{Guest, Heard};
use super::{admission_fails_at, connect, reserve, sandbox, vm};

const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A host with a way into the world, as `packets` has it.
pub(crate) fn host(sandbox: &Sandbox) -> (Netns, Netns) {
    let (host, world) = (Netns::new(sandbox), Netns::new(sandbox));
    let peer = world.pid();
    for line in [
        format!("ip link add up0 type veth peer name eth0 netns {peer}"),
        "ip address add 192.0.2.1/24 dev up0".to_owned(),
        "ip link set up0 up".to_owned(),
    ] {
        host.run(sandbox, &line).ok();
    }
    for line in [
        "ip address add 192.0.2.2/24 dev eth0",
        "ip link set eth0 up",
    ] {
        world.run(sandbox, line).ok();
    }
    (host, world)
}

/// The check of the firewalls; the others are well.
fn forward(sandbox: &Sandbox, arguments: &str) -> Value {
    let checks = sandbox.sh(&format!("banger-net doctor {arguments}"));
    let records: Vec<Value> = checks
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let named = |name: &str| records.iter().find(|check| check["name"] == name);
    for name in ["daemon", "bridge", "packet"] {
        assert!(
            named(name).is_some_and(|check| check["ok"] == true),
            "{checks}"
        );
    }
    let forward = named("forward").expect("it was tried");
    assert!(checks.status != 0 || forward["ok"] == true, "{checks}");
    forward.clone()
}

fn is_kept_in(guest: &mut Guest) {
    let (hop, own, gateway) = (guest.hop(), (guest.mac, guest.address), guest.gateway);
    guest.echo(hop, own, WORLD, 1);
    // The host answers the second, whatever became of the first.
    guest.echo(hop, own, gateway, 2);
    let reply = Heard::EchoReply {
        from: gateway,
        sequence: 2,
    };
    assert_eq!(guest.hear_past_questions(), reply);
}

pub(crate) fn reaches_the_world(guest: &mut Guest) {
    let (hop, own) = (guest.hop(), (guest.mac, guest.address));
    guest.echo(hop, own, WORLD, 3);
    let reply = Heard::EchoReply {
        from: WORLD,
        sequence: 3,
    };
    assert_eq!(guest.hear_past_questions(), reply);
}

/// What Docker does at its start (moby's bridge driver, setupIPForwarding and setupIPChains).
const DOCKER: [&str; 7] = [
    "sysctl -qw net.ipv4.ip_forward=1",
    "iptables -P FORWARD DROP",
    "iptables -N DOCKER-USER",
    "iptables -A DOCKER-USER -j RETURN",
    "iptables -N DOCKER-FORWARD",
    "iptables -A FORWARD -j DOCKER-USER",
    "iptables -A FORWARD -j DOCKER-FORWARD",
];

#[test]
fn dockers_firewall_is_found_by_a_packet_and_told_on_request() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, _world) = host(&sandbox);
    for line in DOCKER {
        netns.run(&sandbox, line).ok();
    }
    let before = netns.run(&sandbox, "iptables -S");
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let reservation = reserve(&mut ops, 1);
    ops.nat(vm(1), true).unwrap();
    let (_, tap) = ops.attach(vm(1)).unwrap();
    let mut guest = Guest::new(&reservation, tap);
    is_kept_in(&mut guest);
    let found = forward(&sandbox, "");
    assert!(
        found["detail"].as_str().unwrap().contains("drops"),
        "{found}"
    );
    assert!(
        found["hint"].as_str().unwrap().contains("doctor --fix"),
        "{found}"
    );
    assert_eq!(
        netns.run(&sandbox, "iptables -S").ok(),
        before.ok(),
        "it only looked"
    );

    let mended = forward(&sandbox, "--fix");
    assert!(
        mended["detail"].as_str().unwrap().contains("was told"),
        "{mended}"
    );
    let rules = netns.run(&sandbox, "iptables -S DOCKER-USER");
    assert_eq!(rules.ok().matches("banger-netd").count(), 2, "{rules}");
    reaches_the_world(&mut guest);
    assert!(
        forward(&sandbox, "")["detail"]
            .as_str()
            .unwrap()
            .contains("passes")
    );
    assert!(!ops.admit(true).unwrap().0, "twice is as good as once");
    assert!(ops.status().unwrap().admitted);
    // A daemon that was killed knows what it has to take back.
    netd.kill();
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    drop(guest);
    ops.release(vm(1)).unwrap();
    ops.down().unwrap();
    assert_eq!(netns.run(&sandbox, "iptables -S").ok(), before.ok());
    assert!(!ops.status().unwrap().admitted);
    assert!(ops.status().unwrap().forwarding, "that was Docker's");
}

#[test]
fn a_policy_without_docker_gets_the_rules_in_its_own_chain() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, _world) = host(&sandbox);
    netns.run(&sandbox, "sysctl -qw net.ipv4.ip_forward=1").ok();
    netns.run(&sandbox, "iptables -P FORWARD DROP").ok();
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    ops.up().unwrap();
    let before = netns.run(&sandbox, "iptables -S");
    assert!(ops.admit(true).unwrap().0);
    assert_eq!(forward(&sandbox, "")["ok"], true);
    assert!(ops.admit(false).unwrap().0);
    assert!(!ops.admit(false).unwrap().0);
    assert_eq!(netns.run(&sandbox, "iptables -S").ok(), before.ok());
    // A failure in between leaves nothing: of the second rule, then of what notes it.
    drop(netd);
    for point in [
        "netd.firewall.insert#2",
        "netd.firewall.admit#1",
        "netd.journal.sync#1",
    ] {
        let command = Netd::child(&sandbox, &netns, "other");
        admission_fails_at(command, point);
        assert_eq!(
            netns.run(&sandbox, "iptables -S").ok(),
            before.ok(),
            "{point}"
        );
    }
}

/// What every end of the seam does alike.
fn holds(ops: &mut impl PrivilegedOps) {
    ops.up().expect("it is allowed");
    let mut admit = |enabled| ops.admit(enabled).expect("it is allowed");
    assert!(!admit(false).0, "there is nothing to take back");
    let (changed, status) = admit(true);
    assert!(changed && status.admitted && status.up, "{status:?}");
    assert!(!admit(true).0);
    let (changed, status) = admit(false);
    assert!(changed && !status.admitted, "{status:?}");
    assert!(admit(true).0);
    assert!(ops.down().expect("it is allowed").0);
    assert!(!ops.status().expect("it is allowed").admitted);
}

#[test]
fn every_end_lets_guests_through() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    netns.run(&sandbox, "iptables -P FORWARD DROP").ok();
    let before = netns.run(&sandbox, "iptables -S");
    let netd = Netd::start(&sandbox, &netns, "");
    holds(&mut connect(&netd));
    netd.kill();
    assert_eq!(netns.run(&sandbox, "iptables -S").ok(), before.ok());
    holds(&mut Client::child(Netd::child(&sandbox, &netns, "netd")).unwrap());
    assert_eq!(netns.run(&sandbox, "iptables -S").ok(), before.ok());
    holds(&mut Simulated::new(0));
}

#[test]
fn without_a_way_into_the_world_there_is_nothing_to_find() {
    let Some(sandbox) = sandbox() else { return };
    let alone = Netns::new(&sandbox);
    alone.run(&sandbox, "sysctl -qw net.ipv4.ip_forward=1").ok();
    let _netd = Netd::start(&sandbox, &alone, "");
    assert!(
        forward(&sandbox, "")["detail"]
            .as_str()
            .unwrap()
            .contains("no way into the world")
    );
}
