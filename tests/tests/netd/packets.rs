//! What passes and what does not. Frames on one path keep their order, so what is dropped is proven by
//! what was sent after it and arrives first.

use std::net::Ipv4Addr;

use banger_tests::{Netd, Netns, Sandbox, eventually};
use lib_net::{Client, GroupName, Mac, PrivilegedOps};

use super::packet::{Guest, Heard};
use super::{connect, reserve, sandbox, vm};

fn guest(ops: &mut Client, number: u32) -> Guest {
    reserve(ops, number);
    let (reservation, tap) = ops.attach(vm(number)).expect("it is reserved");
    Guest::new(&reservation, tap)
}

fn group(name: &str) -> Option<GroupName> {
    Some(GroupName::try_from(name).expect("a label"))
}

#[test]
fn guests_reach_each_other_only_within_a_group() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let [mut one, mut two, mut three] = [1, 2, 3].map(|number| guest(&mut ops, number));
    let hop = one.hop();
    // The bridge knows where they are, and need not ask everybody.
    two.hop();
    three.hop();
    // The host forwards, so that only the rules are between them.
    ops.nat(vm(3), true).unwrap();
    let (own, other) = ((one.mac, one.address), (two.mac, two.address));
    let third = (three.mac, three.address);

    // Closed: neither a question, nor a packet, nor by way of the host.
    one.arp(own.0, own.0, own.1, other.1);
    one.echo(other.0, own, other.1, 1);
    one.echo(hop, own, other.1, 2);
    // In one group of two.
    ops.group(vm(1), group("web")).unwrap();
    ops.group(vm(2), group("web")).unwrap();
    one.arp(own.0, own.0, own.1, other.1);
    one.echo(other.0, own, other.1, 3);
    let (from, to) = (own.1, other.1);
    assert_eq!(two.hear(), Heard::ArpRequest { from, to });
    assert_eq!(two.hear(), Heard::Echo { from, sequence: 3 });
    // By way of the host still not, nor to somebody outside, nor to somebody of another group.
    one.echo(hop, own, other.1, 4);
    one.echo(third.0, own, third.1, 5);
    ops.group(vm(3), group("db")).unwrap();
    one.echo(third.0, own, third.1, 6);
    one.echo(other.0, own, other.1, 7);
    assert_eq!(two.hear(), Heard::Echo { from, sequence: 7 });
    // Out of it again.
    ops.group(vm(2), None).unwrap();
    one.echo(other.0, own, other.1, 8);
    ops.group(vm(2), group("web")).unwrap();
    ops.group(vm(3), group("web")).unwrap();
    one.echo(other.0, own, other.1, 9);
    one.echo(third.0, own, third.1, 10);
    assert_eq!(two.hear(), Heard::Echo { from, sequence: 9 });
    assert_eq!(three.hear(), Heard::Echo { from, sequence: 10 });
}

#[test]
fn a_guest_speaks_only_as_itself() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let [mut liar, victim] = [1, 2].map(|number| guest(&mut ops, number));
    let hop = liar.hop();
    let (own, gateway) = ((liar.mac, liar.address), liar.gateway);
    let stranger = Mac([0x52, 0x54, 9, 9, 9, 9]);
    // In one group, so that only the check of the source is between them.
    for number in [1, 2] {
        ops.group(vm(number), group("web")).unwrap();
    }

    liar.echo(hop, (stranger, own.1), gateway, 1);
    liar.echo(hop, (own.0, victim.address), gateway, 2);
    liar.echo(hop, (victim.mac, victim.address), gateway, 3);
    liar.echo(hop, (own.0, gateway), gateway, 4);
    liar.echo(hop, (own.0, Ipv4Addr::new(8, 8, 8, 8)), gateway, 5);
    for (outer, inner, address) in [
        (own.0, own.0, victim.address),
        (own.0, own.0, gateway),
        (own.0, victim.mac, own.1),
        (stranger, own.0, own.1),
        (own.0, stranger, own.1),
    ] {
        liar.arp(outer, inner, address, gateway);
    }
    // IPv6, VLAN (802.1Q), spanning tree, and a kind that nobody knows.
    for kind in [0x86dd, 0x8100, 0x0027, 0x88b5] {
        liar.send(Mac([0xff; 6]), own.0, kind, &[0x45; 60]);
    }
    liar.echo(hop, own, gateway, 6);
    let heard = liar.hear_past_questions();
    assert_eq!(
        heard,
        Heard::EchoReply {
            from: gateway,
            sequence: 6
        }
    );
    // The host has believed none of it.
    let neighbours = netns.run(&sandbox, "ip -j neighbour show dev banger0");
    let list: serde_json::Value = serde_json::from_str(neighbours.ok()).unwrap();
    for neighbour in list.as_array().unwrap() {
        let known = neighbour["dst"] == own.1.to_string();
        assert!(
            known && neighbour["lladdr"] == own.0.to_string(),
            "{neighbour}"
        );
    }
}

#[test]
fn a_borrowed_hardware_address_brings_nobody_elses_frames() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let [mut thief, mut victim] = [1, 2].map(|number| guest(&mut ops, number));
    let (hop, gateway) = (thief.hop(), thief.gateway);
    victim.hop();
    // Whoever has the descriptor can do that (SIOCSIFHWADDR); the bridge then takes it for the address's place.
    let interface = reserve(&mut ops, 1).interface;
    let line = format!("ip link set {interface} address {}", victim.mac);
    netns.run(&sandbox, &line).ok();
    let ping = format!("ping -c 1 -W 1 {}", victim.address);
    netns.run(&sandbox, &ping).exits(1);
    thief.echo(hop, (thief.mac, thief.address), gateway, 1);
    let heard = thief.hear_past_questions();
    assert_eq!(
        heard,
        Heard::EchoReply {
            from: gateway,
            sequence: 1
        }
    );
}

#[test]
fn services_of_the_host_are_closed_but_for_names() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    netns
        .run(&sandbox, "ip address add 192.0.2.1/32 dev lo")
        .ok();
    let netd = Netd::start(&sandbox, &netns, "");
    let mut guest = guest(&mut connect(&netd), 1);
    let (hop, gateway) = (guest.hop(), guest.gateway);
    let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
    // Nobody listens, so whatever reaches the host is answered with a reset.
    guest.syn(hop, gateway, 22);
    guest.syn(hop, elsewhere, 53);
    guest.syn(hop, elsewhere, 80);
    guest.echo(hop, (guest.mac, guest.address), elsewhere, 1);
    guest.syn(hop, gateway, 53);
    let answer = Heard::Tcp {
        from: gateway,
        port: 53,
        reset: true,
    };
    assert_eq!(guest.hear_past_questions(), answer);
}

/// A namespace beyond the host's: 192.0.2.2, which knows no way back to guests.
fn world(sandbox: &Sandbox, host: &Netns) -> Netns {
    let world = Netns::new(sandbox);
    let peer = world.pid();
    for line in [
        format!("ip link add up0 type veth peer name eth0 netns {peer}"),
        "ip address add 192.0.2.1/24 dev up0".to_owned(),
        // Without addresses that come by themselves, later.
        "ip link set up0 addrgenmode none".to_owned(),
        "ip link set up0 up".to_owned(),
    ] {
        host.run(sandbox, &line).ok();
    }
    world
        .run(sandbox, "ip address add 192.0.2.2/24 dev eth0")
        .ok();
    world.run(sandbox, "ip link set eth0 up").ok();
    eventually("the link is there", super::life::PATIENCE, || {
        let up = host.run(sandbox, "ip -j link show up0");
        up.ok().contains("\"operstate\":\"UP\"").then_some(())
    });
    world
}

#[test]
fn out_into_the_world_only_with_nat() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let _world = world(&sandbox, &netns);
    let before = netns.state(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let [mut one, mut two] = [1, 2].map(|number| guest(&mut ops, number));
    let (hop, world) = (one.hop(), Ipv4Addr::new(192, 0, 2, 2));
    let (own, other) = ((one.mac, one.address), (two.mac, two.address));
    assert!(!ops.status().unwrap().forwarding);

    one.echo(hop, own, world, 1);
    ops.nat(vm(1), true).unwrap();
    assert!(ops.status().unwrap().forwarding);
    // Forwarding is on now, and yet the other one stays in.
    two.hop();
    two.echo(hop, other, world, 2);
    one.echo(hop, own, world, 3);
    assert_eq!(
        one.hear_past_questions(),
        Heard::EchoReply {
            from: world,
            sequence: 3
        }
    );
    ops.nat(vm(2), true).unwrap();
    two.echo(hop, other, world, 4);
    assert_eq!(
        two.hear_past_questions(),
        Heard::EchoReply {
            from: world,
            sequence: 4
        }
    );
    ops.nat(vm(1), false).unwrap();
    one.echo(hop, own, world, 5);
    ops.nat(vm(1), true).unwrap();
    one.echo(hop, own, world, 6);
    assert_eq!(
        one.hear_past_questions(),
        Heard::EchoReply {
            from: world,
            sequence: 6
        }
    );

    drop((one, two));
    for number in [1, 2] {
        ops.release(vm(number)).unwrap();
    }
    ops.down().unwrap();
    assert_eq!(
        netns.state(&sandbox),
        before,
        "ip_forward is as it was, too"
    );
}
