//! The real systemd-resolved, with the real units, in a VM that plays the host.

use std::time::Duration;

use banger_tests::{Outcome, Sandbox, eventually, skipped};

/// Systemd in emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
#[ignore = "has not passed yet"]
fn the_real_resolved_asks_the_server_of_names() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let archive = sandbox.path("image.tar");
    let image = sandbox.fixtures().resolved().expect("cargo xtask made it");
    image
        .write_archive(&archive, "resolved")
        .expect("the sandbox can be written");
    sandbox
        .sh(&format!(
            "banger-image import --quiet {}",
            archive.display()
        ))
        .ok();
    std::fs::remove_file(archive).expect("it was just written");
    sandbox
        .sh("banger-vm create --quiet --name host --network user --memory 768M resolved")
        .ok();
    let on = |line: &str| sandbox.sh(&format!("banger-vm exec host -- {line}"));
    on("systemctl is-system-running --wait");
    on("groupadd --system banger").ok();
    let started = on(
        "systemctl start banger-netd.socket banger-dns.socket banger-dns-guests.socket banger-dns-route.service",
    );
    let journal = on("journalctl --no-pager --unit=banger* --unit=systemd-resolved");
    assert_eq!(started.status, 0, "{started}\n{journal}");

    // A VM of a moment is found by its name through the stub resolver of the host, as every program asks.
    let doctor = || on("banger-net doctor");
    let is_well = |outcome: &Outcome| {
        let journal = on("journalctl --no-pager --unit=banger* --unit=systemd-resolved");
        let all = records_of(outcome).iter().all(|check| check["ok"] == true);
        assert!(outcome.status == 0 && all, "{outcome}\n{journal}");
    };
    let well = doctor();
    is_well(&well);
    assert_eq!(well.records().len(), 5, "{well}");
    assert_eq!(
        on("readlink /etc/resolv.conf").ok().trim(),
        "/run/systemd/resolve/stub-resolv.conf"
    );
    let status = on("resolvectl --no-pager status banger-dns");
    for said in [
        "Current Scopes: DNS",
        "DNS Servers: 127.83.0.53",
        "~vm",
        "~83.10.in-addr.arpa",
    ] {
        assert!(status.ok().contains(said), "{said}: {status}");
    }
    let route = on("banger-net route status").record();
    assert_eq!(
        (&route["up"], &route["link"]),
        (&true.into(), &"banger-dns".into())
    );
    assert_eq!(on("banger-net route up").record()["changed"], false);
    // What is nobody's is said at once, and does not go to the world.
    let unknown = on("resolvectl query nobody.vm");
    assert!(unknown.exits(1).stderr.contains("not found"), "{unknown}");

    // Nobody but systemd has rights here.
    let pid = on("systemctl show --property=MainPID --value banger-dns.service");
    let status = on(&format!("cat /proc/{}/status", pid.ok().trim()));
    for said in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.ok().contains(said), "{said}: {status}");
    }
    let uid = status
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("Uid:\t"));
    assert!(uid.is_some_and(|uid| !uid.starts_with("0\t")), "{status}");

    // Each of the parts dies or is restarted, and names are as they were.
    on("systemctl kill --signal=KILL banger-dns.service").ok();
    is_well(&doctor());
    on("systemctl restart systemd-resolved.service").ok();
    is_well(&doctor());
    on("systemctl kill --signal=KILL systemd-resolved.service").ok();
    eventually("systemd starts it again", PATIENCE, || {
        (on("resolvectl --no-pager status banger-dns").status == 0).then_some(())
    });
    is_well(&doctor());
    on("systemctl kill --signal=KILL banger-netd.service").ok();
    is_well(&doctor());

    // The route goes, and with it all that the resolver knew of us.
    on("systemctl stop banger-dns-route.service").ok();
    on("ip link show banger-dns").exits(1);
    let ill = doctor();
    let checks = records_of(ill.exits(1));
    assert_eq!(
        (&checks[3]["ok"], &checks[4]["ok"]),
        (&true.into(), &false.into()),
        "{ill}"
    );
    let route = on("banger-net route status");
    assert_eq!(route.record()["up"], false);
    route.says("server=/vm/127.83.0.53");
    assert_eq!(on("banger-net route up").record()["changed"], true);
    is_well(&doctor());
    assert_eq!(on("banger-net route down").record()["changed"], true);
}

/// The records of a command that failed.
fn records_of(outcome: &Outcome) -> Vec<serde_json::Value> {
    let records = outcome.stdout.lines().map(serde_json::from_str);
    records.map(|record| record.expect("a record")).collect()
}
