//! Restarts, deaths, and names that follow.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use banger_tests::{Netd, Netns, eventually};
use lib_net::{Client, PrivilegedOps};

use super::packet::{Guest, Heard};
use super::{connect, names, reserve, sandbox, vm};

/// For what the kernel does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_guest_does_not_notice_that_the_daemon_is_killed() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    reserve(&mut ops, 1);
    let lost = reserve(&mut ops, 2);
    ops.nat(vm(1), true).unwrap();
    let (reservation, tap) = ops.attach(vm(1)).unwrap();
    let mut guest = Guest::new(&reservation, tap);
    let hop = guest.hop();
    let before = ops.list().unwrap();
    let rules = netns.state(&sandbox);

    netd.kill();
    let (own, gateway) = ((guest.mac, guest.address), guest.gateway);
    guest.echo(hop, own, gateway, 1);
    let reply = Heard::EchoReply {
        from: gateway,
        sequence: 1,
    };
    assert_eq!(guest.hear_past_questions(), reply);

    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    assert_eq!(
        ops.list().unwrap(),
        before,
        "the journal and the kernel remember"
    );
    assert_eq!(netns.state(&sandbox), rules);
    assert!(
        names(&netd)
            .records
            .iter()
            .any(|r| r.vm == vm(1) && r.attached)
    );
    guest.echo(hop, own, gateway, 2);
    let reply = Heard::EchoReply {
        from: gateway,
        sequence: 2,
    };
    assert_eq!(guest.hear_past_questions(), reply);
    // An address is not given again while it is reserved, nor right after.
    let next = reserve(&mut ops, 3);
    assert!(next.address > lost.address, "{next:?}");
    // The client that reserved the second one died before it attached: nobody has that VM.
    let (_, given_back) = ops.gc(super::store(), vec![vm(3)], 0).unwrap();
    let given_back: Vec<_> = given_back.into_iter().map(|r| r.vm).collect();
    assert_eq!(
        given_back,
        [vm(2)],
        "what is attached stays, whoever forgot it"
    );
}

#[test]
fn rules_that_somebody_flushed_come_back() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    reserve(&mut ops, 1);
    let (_, _tap) = ops.attach(vm(1)).unwrap();
    let rules = eventually("the bridge has its carrier", PATIENCE, || {
        let state = netns.state(&sandbox);
        (!state.contains("NO-CARRIER")).then_some(state)
    });
    netns.run(&sandbox, "nft flush ruleset").ok();
    assert!(!ops.status().unwrap().up, "it says so");
    assert!(ops.up().unwrap().0);
    assert_eq!(netns.state(&sandbox), rules);
    netns.run(&sandbox, "nft flush ruleset").ok();
    reserve(&mut ops, 2);
    let (_, _other) = ops.attach(vm(2)).unwrap();
    assert!(
        ops.status().unwrap().up,
        "the next change brings them back as well"
    );
}

#[test]
fn names_follow_the_interfaces() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let name = super::name(1);
    for number in [1, 2] {
        ops.reserve(vm(number), name.clone(), super::store())
            .unwrap();
    }
    let file = names(&netd);
    let seen: Vec<_> = file
        .records
        .iter()
        .map(|r| (r.first, r.attached, &*r.user))
        .collect();
    assert_eq!(seen, [(true, false, "root"), (false, false, "root")]);
    assert_eq!((file.gateway.octets(), file.prefix), ([10, 83, 0, 1], 16));
    let attached = || names(&netd).records.iter().filter(|r| r.attached).count();
    let (_, tap) = ops.attach(vm(2)).unwrap();
    assert_eq!(attached(), 1, "written before the answer");
    drop(tap);
    eventually("the name follows", PATIENCE, || {
        (attached() == 0).then_some(())
    });
    ops.release(vm(1)).unwrap();
    let records = names(&netd).records;
    assert!(
        records.len() == 1 && records[0].first,
        "the next one has the short name"
    );
}

#[test]
fn a_socket_can_be_passed() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let socket = sandbox.netd_socket();
    let activate = sandbox.start(&format!(
        "exec {} systemd-socket-activate --listen={} {} --state {}",
        netns.enter(),
        socket.display(),
        Netd::program(&sandbox).display(),
        sandbox.path("netd").display()
    ));
    activate.wait_for_stderr("Listening on");
    let mut ops = Client::connect(&socket).unwrap();
    assert!(ops.up().unwrap().0);
    assert!(ops.down().unwrap().0);
    // Without one, it says what it needs.
    let state = sandbox.path("other");
    let program = Netd::program(&sandbox);
    let alone = sandbox.sh(&format!(
        "{} --state {}",
        program.display(),
        state.display()
    ));
    alone
        .exits(1)
        .says("start it with --listen PATH, or by systemd");
}

#[test]
fn two_daemons_do_not_share_a_state() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let program = Netd::program(&sandbox);
    let second = sandbox.sh(&format!(
        "{} --listen {} --state {}",
        program.display(),
        sandbox.path("s").display(),
        netd.state().display()
    ));
    second.exits(4).says("another banger-netd serves");
}

#[test]
fn many_at_once_leave_nothing() {
    const CALLERS: u32 = 256;
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    ops.up().unwrap();
    let before = netns.state(&sandbox);
    let netd = &netd;
    let all = Barrier::new(CALLERS as usize);
    let mut addresses: Vec<_> = thread::scope(|scope| {
        let all = &all;
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                scope.spawn(move || {
                    let mut ops = connect(netd);
                    let address = reserve(&mut ops, number).address;
                    let tap = ops.attach(vm(number)).unwrap();
                    // All are attached before the first one goes.
                    all.wait();
                    drop(tap);
                    assert!(ops.release(vm(number)).unwrap().0);
                    address
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), CALLERS as usize, "no address twice");
    assert!(ops.list().unwrap().is_empty());
    eventually("no interface is left", PATIENCE, || {
        (netns.state(&sandbox) == before).then_some(())
    });
    let open = format!("/proc/{}/fd", netd.running().pid());
    eventually("no connection is left", PATIENCE, || {
        (std::fs::read_dir(&open).ok()?.count() < 24).then_some(())
    });
}

/// What it reserved is its user's: kept while the store has the VM, given back when it has not.
#[test]
fn what_a_client_reserved_that_died_before_it_attached_is_collected() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut dies = connect(&netd);
    dies.up().unwrap();
    let before = netns.state(&sandbox);
    let address = reserve(&mut dies, 1).address;
    drop(dies);
    let mut ops = connect(&netd);
    assert_eq!(ops.list().unwrap().len(), 1);
    assert_eq!(
        reserve(&mut ops, 1).address,
        address,
        "the next one has the same"
    );
    assert!(!ops.gc(super::store(), vec![vm(1)], 0).unwrap().0);
    assert!(ops.gc(super::store(), vec![], 0).unwrap().0);
    assert!(ops.list().unwrap().is_empty());
    assert_eq!(netns.state(&sandbox), before);
}

#[test]
fn memory_is_small() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    let taps: Vec<_> = (0..20)
        .map(|number| {
            reserve(&mut ops, number);
            ops.attach(vm(number)).unwrap()
        })
        .collect();
    // nsenter(1) becomes the program, so the process is the one that was started.
    let status = format!("/proc/{}/status", netd.running().pid());
    let status = std::fs::read_to_string(status).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = resident
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(kib <= 8 << 10, "{kib} KiB with {} VMs", taps.len());
}
