//! The units for systemd: valid, and as closed as their work allows.

use std::fs;
use std::path::Path;

use banger_tests::{Netd, Sandbox};

/// Each unit, and the most that systemd-analyze(1) may say, in tenths: 0 is closed, 100 is open. Each
/// opening has its reason in the unit.
const UNITS: [(&str, u32); 3] = [
    ("banger-netd", 20),
    ("banger-dns", 15),
    ("banger-dns-route", 15),
];

fn units() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helper/netd/systemd")
}

#[test]
fn the_units_are_valid_and_closed() {
    let sandbox = Sandbox::empty();
    let directory = sandbox.path("units");
    fs::create_dir(&directory).unwrap();
    let netd = Netd::program(&sandbox).display().to_string();
    let net = sandbox
        .fixtures()
        .bin()
        .join("banger-net")
        .display()
        .to_string();
    let mut paths = Vec::new();
    for entry in fs::read_dir(units()).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.extension().unwrap_or_default();
        if kind != "service" && kind != "socket" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        // Verified where it is installed, and with a manual that is there.
        let text = text.replace("/usr/libexec/banger/banger-netd", &netd);
        let text = text.replace("/usr/bin/banger-net", &net);
        let text = text.replace("man:banger-net(1)", "https://example.org/");
        let place = directory.join(path.file_name().unwrap());
        fs::write(&place, text).unwrap();
        paths.push(place.display().to_string());
    }
    let verified = sandbox.sh(&format!("systemd-analyze verify {}", paths.join(" ")));
    verified.ok();
    let ours = verified
        .stderr
        .lines()
        .filter(|line| line.contains("banger"));
    assert_eq!(ours.count(), 0, "{verified}");
    let services = paths.iter().filter(|path| path.ends_with(".service"));
    assert_eq!(
        services.count(),
        UNITS.len(),
        "a service without a threshold: {paths:?}"
    );
    for (unit, threshold) in UNITS {
        let service = directory.join(format!("{unit}.service"));
        let score = sandbox.sh(&format!(
            "systemd-analyze security --offline=true --no-pager --threshold={threshold} {}",
            service.display()
        ));
        println!(
            "{unit}: {}",
            score.stdout.lines().last().unwrap_or_default()
        );
        score.ok();
    }
}

#[test]
fn others_leave_our_interfaces_alone() {
    for name in ["70-banger.network", "banger-networkmanager.conf"] {
        let text = fs::read_to_string(units().join(name)).unwrap();
        let taps = format!("{}*", banger_proto::TAP_PREFIX);
        for ours in ["banger0", &taps, banger_proto::ROUTE_LINK] {
            assert!(text.contains(ours), "{name} without {ours}");
        }
        assert!(text.to_lowercase().contains("unmanaged"), "{name}");
    }
}
