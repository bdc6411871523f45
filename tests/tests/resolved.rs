//! The real systemd-resolved and NetworkManager, with the real units, in a VM that plays the host (`netd::machine` boots
//! it).

use std::time::Duration;

use banger_tests::{Outcome, Sandbox, eventually};

/// Systemd in emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The machine `host`, from an image where banger is installed as its units expect it.
pub(crate) fn boot(sandbox: &Sandbox) {
    let archive = sandbox.path("image.tar");
    let image = sandbox.fixtures().host().expect("cargo xtask made it");
    image
        .write_archive(&archive, "host:latest")
        .expect("the sandbox can be written");
    let import = format!("banger-image import --quiet {}", archive.display());
    sandbox.sh(&import).ok();
    std::fs::remove_file(archive).expect("it was just written");
    sandbox
        .sh("banger-vm create --quiet --name host --network user --memory 768M host")
        .ok();
    on(sandbox, "systemctl is-system-running --wait");
    on(sandbox, "groupadd --system banger").ok();
}

fn on(sandbox: &Sandbox, line: &str) -> Outcome {
    sandbox.sh(&format!("banger-vm exec host -- {line}"))
}

/// Through the real resolver, whichever part is restarted.
pub(crate) fn names_are_routed(sandbox: &Sandbox) {
    let on = |line: &str| on(sandbox, line);
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
    assert_eq!(well.records().len(), 6, "{well}");
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

/// As the file that is installed beside it says.
pub(crate) fn network_manager_leaves_our_interfaces_alone(sandbox: &Sandbox) {
    let on = |line: &str| on(sandbox, line);
    // One that is somebody's, so that there is a difference.
    on("ip link add name other0 type bridge").ok();
    on("ip address add 10.99.0.1/24 dev other0").ok();
    on("ip link set other0 up").ok();
    on("banger-net up").ok();
    on("banger-net route up").ok();
    on("systemctl start NetworkManager.service").ok();
    let devices = on("nmcli --terse --fields DEVICE,STATE device");
    let state = |name: &str| {
        let lines = devices.ok().lines();
        let mut states = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let state = states.next();
        state
            .unwrap_or_else(|| panic!("no {name}: {devices}"))
            .to_owned()
    };
    assert_ne!(state("other0"), "unmanaged", "{devices}");
    for ours in ["banger0", "banger-dns"] {
        assert_eq!(state(ours), "unmanaged", "{devices}");
    }
}

/// The records of a command that failed.
fn records_of(outcome: &Outcome) -> Vec<serde_json::Value> {
    let records = outcome.stdout.lines().map(serde_json::from_str);
    records.map(|record| record.expect("a record")).collect()
}
