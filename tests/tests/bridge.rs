//! VMs on the bridge: real guests, the real daemon in a namespace of the test's own.

use std::time::Duration;

use banger_tests::{NameServer, Netd, Netns, Sandbox, eventually, resolving, skipped};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A ping in a guest, which takes a second to find that there is no answer.
fn reaches(sandbox: &Sandbox, vm: &str, address: &str) -> bool {
    let ping = format!("banger-vm exec {vm} -- ping -c 1 -W 20 {address}");
    match sandbox.sh(&ping).status {
        0 => true,
        1 => false,
        status => panic!("{ping} ended with {status}"),
    }
}

fn is_closed(sandbox: &Sandbox, vm: &str, address: &str) {
    // As long as it likes: nothing can come.
    let ping = format!("banger-vm exec {vm} -- ping -c 1 -W 1 {address}");
    sandbox.sh(&ping).exits(1);
}

fn text(record: &Value, field: &str) -> String {
    record[field].as_str().unwrap_or_default().to_owned()
}

#[test]
fn two_guests_on_a_bridge() {
    if skipped("vm") || skipped("root") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let netns = Netns::new(&sandbox);
    // The world beyond the host.
    let world = Netns::new(&sandbox);
    for line in [
        format!(
            "ip link add up0 type veth peer name eth0 netns {}",
            world.pid()
        ),
        "ip address add 192.0.2.1/24 dev up0".to_owned(),
        "ip link set up0 up".to_owned(),
    ] {
        netns.run(&sandbox, &line).ok();
    }
    world
        .run(&sandbox, "ip address add 192.0.2.2/24 dev eth0")
        .ok();
    world.run(&sandbox, "ip link set eth0 up").ok();
    let netd = Netd::start(&sandbox, &netns, "");

    // Nobody chose: the bridge, with the way out that `user` would have.
    let created = sandbox.sh("banger-vm create --memory 192M --name one busybox");
    created.says("the VM is on the bridge");
    let one = created.record();
    let closed = "banger-vm create --quiet --memory 192M --network bridge --name two busybox";
    let two = sandbox.sh(closed).record();
    assert_eq!(
        (&one["network"], &two["network"]),
        (&"bridge".into(), &"bridge".into())
    );
    let (first, second) = (text(&one, "address"), text(&two, "address"));
    assert!(
        first.starts_with("10.83.0.") && first != second,
        "{one} {two}"
    );
    assert_eq!(sandbox.vm("one")["address"], one["address"]);

    let resolver = sandbox.sh("banger-vm exec one -- cat /etc/resolv.conf");
    assert_eq!(resolver.ok(), "nameserver 10.83.0.1\n");
    let route = sandbox.sh("banger-vm exec one -- ip route");
    assert!(route.ok().contains("default via 10.83.0.1"), "{route}");
    let shown = sandbox.sh("banger-vm exec one -- ip address");
    assert!(shown.ok().contains(&format!("inet {first}/16")), "{shown}");

    assert!(
        reaches(&sandbox, "one", "10.83.0.1"),
        "the host's address on the bridge"
    );
    assert!(reaches(&sandbox, "one", "192.0.2.2"), "the world");
    is_closed(&sandbox, "two", "192.0.2.2");
    is_closed(&sandbox, "one", "192.0.2.1");
    is_closed(&sandbox, "one", &second);
    // Records through a pipe.
    let grouped = sandbox.sh("banger-vm list | banger-net group set web");
    assert!(
        grouped
            .records()
            .iter()
            .all(|r| r["group"] == "web" && r["changed"] == true)
    );
    assert!(reaches(&sandbox, "one", &second) && reaches(&sandbox, "two", &first));
    sandbox.sh("banger-net group unset two").ok();
    is_closed(&sandbox, "one", &second);
    sandbox.sh("banger-net nat on two").ok();
    assert!(reaches(&sandbox, "two", "192.0.2.2"));
    sandbox.sh("banger-net nat off two").ok();
    is_closed(&sandbox, "two", "192.0.2.2");

    // The daemon dies; guests do not notice, and a new one knows them.
    netd.kill();
    assert!(reaches(&sandbox, "one", "192.0.2.2"));
    let netd = Netd::start(&sandbox, &netns, "");
    let list = sandbox.sh("banger-net list --json").records();
    let attached: Vec<_> = list
        .iter()
        .map(|r| (text(r, "name"), r["attached"] == true))
        .collect();
    assert_eq!(
        attached,
        [("one".to_owned(), true), ("two".to_owned(), true)]
    );
    sandbox
        .sh("banger-net down")
        .exits(4)
        .hints("banger-net list");

    // Stopped, started again: the same address, whatever the name is.
    sandbox.sh("banger-vm stop --quiet two").ok();
    eventually("its interface goes", PATIENCE, || {
        let links = netns.run(&sandbox, "ip -j link show master banger0");
        (links.ok().matches("\"ifname\"").count() == 1).then_some(())
    });
    sandbox.sh("banger-vm set --quiet --name renamed two").ok();
    sandbox.sh("banger-vm start --quiet renamed").ok();
    assert!(reaches(&sandbox, "renamed", "10.83.0.1"));
    let list = sandbox.sh("banger-net list --json").records();
    assert_eq!(
        (&list[1]["name"], &list[1]["address"]),
        (&"renamed".into(), &two["address"])
    );

    // A killed VMM leaves nothing either.
    sandbox.sh("banger-vm kill --quiet one").ok();
    sandbox
        .sh("banger-vm delete --quiet --force one renamed")
        .ok();
    assert!(sandbox.sh("banger-net list --json").records().is_empty());
    sandbox.sh("banger-net down").ok();
    let links = netns.run(&sandbox, "ip -j link");
    assert!(
        !links.ok().contains("banger0") && !links.stdout.contains("\"bgt"),
        "{links}"
    );
    drop(netd);
}

#[test]
fn addresses_belong_to_vms_of_the_store() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::prepared();
    let netns = Netns::new(&sandbox);
    let _netd = Netd::start(&sandbox, &netns, "--pool 10.9.8.0/29");
    let create = |name: &str| {
        sandbox.sh(&format!(
            "banger-vm create --quiet --no-start --network bridge --name {name} busybox"
        ))
    };
    let made = create("a").record();
    assert_eq!(made["address"], "10.9.8.2");
    // A refused name gives its address back.
    create("a").exits(4);
    assert_eq!(sandbox.sh("banger-net list --json").records().len(), 1);
    for name in ["b", "c", "d", "e"] {
        create(name).ok();
    }
    create("f")
        .exits(5)
        .says("all 5 addresses")
        .hints("banger-net gc");
    assert_eq!(
        sandbox
            .sh("banger-vm list --format ids")
            .ok()
            .lines()
            .count(),
        5
    );
    // `set` gives addresses back and takes them.
    let user = sandbox
        .sh("banger-vm set --quiet --network user e")
        .record();
    assert_eq!(user["address"], Value::Null);
    create("f").ok();
    sandbox
        .sh("banger-vm set --quiet --network bridge e")
        .exits(5);
    sandbox.sh("banger-vm delete --quiet f").ok();
    let again = sandbox
        .sh("banger-vm set --quiet --network bridge e")
        .record();
    assert!(text(&again, "address").starts_with("10.9.8."), "{again}");
    // A store that lost a VM behind the daemon's back.
    let lost = text(&sandbox.vm("b"), "id");
    let database = sandbox.store().join("banger.db");
    let delete = format!(
        "sqlite3 {} \"DELETE FROM vms WHERE id = '{lost}'\"",
        database.display()
    );
    sandbox.sh(&delete).ok();
    assert!(
        sandbox.sh("banger-net gc").records().is_empty(),
        "it is young"
    );
    let given_back = sandbox.sh("banger-net gc --min-age 0").record();
    assert_eq!(
        (text(&given_back, "id"), &given_back["changed"]),
        (lost, &true.into())
    );
    // Without the store's VM there is nothing to let out.
    sandbox.sh("banger-net nat on nobody").exits(3);
    let out = sandbox.sh("banger-net nat on a").record();
    assert_eq!(
        (&out["nat"], &out["kind"]),
        (&true.into(), &"address".into())
    );
    let again = sandbox.sh("banger net nat on a").record();
    assert_eq!(again["changed"], false);
    let status = sandbox.sh("banger-net status").record();
    assert_eq!(
        (&status["up"], &status["reserved"], &status["free"]),
        (&false.into(), &4.into(), &1.into())
    );
    assert_eq!(sandbox.sh("banger-net up").record()["changed"], true);
    assert_eq!(sandbox.sh("banger-net up").record()["changed"], false);
    // Not the daemon's business: it is the VM's monitor that listens.
    let published = sandbox.sh("banger-net publish a 8080:80").record();
    assert_eq!(
        (&published["kind"], &published["active"]),
        (&"published".into(), &false.into())
    );
    let _names = NameServer::start(&sandbox, &netns);
    let doctor = || resolving(&sandbox, &netns, &[NameServer::HOST], "banger-net doctor");
    let checks = doctor().records();
    assert!(checks.iter().all(|check| check["ok"] == true), "{checks:?}");
    let named: Vec<_> = checks.iter().map(|check| text(check, "name")).collect();
    let all = [
        "daemon", "bridge", "packet", "names", "route", "resolver", "forward",
    ];
    assert_eq!(named, all);
    assert_eq!(
        sandbox.sh("banger-net list --json").records().len(),
        4,
        "it cleans up"
    );
    // Somebody else's firewall, which looks well from outside.
    netns.run(&sandbox, "nft add table arp other").ok();
    let chain = "{ type filter hook input priority 0; policy drop; }";
    netns
        .run(
            &sandbox,
            &format!("nft add chain arp other incoming '{chain}'"),
        )
        .ok();
    let ill = doctor();
    ill.exits(1);
    assert!(
        ill.stdout.contains("the host does not answer a guest"),
        "{ill}"
    );
    netns.run(&sandbox, "nft delete table arp other").ok();
    let table = sandbox.sh("banger-net list --format table");
    assert!(table.ok().starts_with("NAME  ID"), "{table}");
}

#[test]
fn without_a_daemon_it_is_said_what_helps() {
    let sandbox = Sandbox::prepared();
    // With the helper, root would get a daemon of its own.
    let status = sandbox.sh("BANGER_LIBEXEC_DIR=/nonexistent banger-net status");
    status
        .exits(1)
        .says("banger-netd does not listen at")
        .hints("systemctl start banger-netd.socket");
    let created = sandbox
        .sh("banger-vm create --no-start --name v busybox")
        .record();
    assert_eq!(created["network"], "user");
}
