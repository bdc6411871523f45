//! Hosts without systemd-resolved: what `banger-net route status` says to write, written.

use std::fs;

use banger_tests::{NameServer, Outcome, Sandbox, eventually, resolving, skipped};
use lib_net::PrivilegedOps;

use super::{PATIENCE, asked, connect, dnsmasq, host, reserve, vm};

#[test]
fn without_resolved_it_is_dnsmasq_or_resolv_conf() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let (netns, netd) = host(&sandbox);
    let mut ops = connect(&netd);
    fs::write(NameServer::resolv_conf(&sandbox), "nameserver 127.0.0.1\n").unwrap();
    let _server = NameServer::start(&sandbox, &netns);
    let reserved = reserve(&mut ops, 1, "dev");
    let (_, _tap) = ops.attach(vm(1)).unwrap();
    let address = reserved.address.to_string();
    eventually("the server knows it", PATIENCE, || {
        (asked(&sandbox, &netns, "dev") == format!("NOERROR {address}")).then_some(())
    });

    // It says what helps, and nothing is left of the attempt.
    let before = netns.state(&sandbox);
    let up = netns.run(&sandbox, "banger-net route up");
    up.exits(1).says("resolv").hints("banger-net route status");
    assert_eq!(netns.state(&sandbox), before);
    let status = netns.run(&sandbox, "banger-net route status");
    assert_eq!(status.record()["up"], false);
    assert_eq!(
        status.record()["zones"],
        serde_json::json!(["vm", "83.10.in-addr.arpa"])
    );
    let lines = |start: &str| -> Vec<String> {
        let said = status.stderr.lines().map(str::trim);
        said.filter(|line| line.starts_with(start))
            .map(str::to_owned)
            .collect()
    };

    // dnsmasq, as NetworkManager's is configured by a file.
    let file = sandbox.path("banger.conf");
    fs::write(&file, lines("server=/").join("\n") + "\n").unwrap();
    let more = format!(
        "--conf-file={} --host-record=a.world.test,192.0.2.7",
        file.display()
    );
    let _dnsmasq = dnsmasq(&sandbox, &netns, "127.0.0.1", &more);
    let by_dnsmasq = |line: &str| resolving(&sandbox, &netns, &["127.0.0.1"], line);
    let shown = by_dnsmasq("getent ahosts dev.vm");
    assert!(shown.ok().starts_with(&address), "{shown}");
    assert!(
        by_dnsmasq(&format!("getent hosts {address}"))
            .ok()
            .contains("dev.vm")
    );
    assert!(
        by_dnsmasq("getent hosts a.world.test")
            .ok()
            .starts_with("192.0.2.7")
    );

    // The first line of resolv.conf: libc goes on to the next server with what is refused.
    let first = lines("nameserver");
    let server = first[0].split_whitespace().last().unwrap();
    let by_libc = |line: &str| resolving(&sandbox, &netns, &[server, "127.0.0.1"], line);
    assert!(by_libc("getent ahosts dev.vm").ok().starts_with(&address));
    assert!(
        by_libc("getent hosts dev.root.vm")
            .ok()
            .starts_with(&address)
    );
    assert!(
        by_libc(&format!("getent hosts {address}"))
            .ok()
            .contains("dev.vm")
    );
    assert!(
        by_libc("getent hosts a.world.test")
            .ok()
            .starts_with("192.0.2.7")
    );
    by_libc("getent hosts nobody.vm").exits(2);
    let well = by_libc("banger-net doctor");
    assert!(
        well.exits(0)
            .records()
            .iter()
            .all(|check| check["ok"] == true),
        "{well}"
    );
    let named: Vec<_> = well
        .records()
        .iter()
        .map(|check| check["name"].clone())
        .collect();
    assert_eq!(
        named,
        ["daemon", "bridge", "packet", "names", "route", "resolver"]
    );

    // A host whose resolver was told nothing.
    let ill = resolving(&sandbox, &netns, &["127.0.0.3"], "banger-net doctor");
    let checks = records_of(ill.exits(1));
    assert_eq!(
        (&checks[3]["ok"], &checks[4]["ok"]),
        (&true.into(), &false.into()),
        "{ill}"
    );
    assert!(
        checks[4]["hint"]
            .as_str()
            .unwrap()
            .contains("banger-net route up"),
        "{ill}"
    );
}

/// The records of a command that failed.
fn records_of(outcome: &Outcome) -> Vec<serde_json::Value> {
    let records = outcome.stdout.lines().map(serde_json::from_str);
    records.map(|record| record.expect("a record")).collect()
}
