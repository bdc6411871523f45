//! The units for systemd: valid, and as closed as their work allows.

use std::fs;
use std::path::Path;

use banger_tests::{Netd, Sandbox};

/// Each unit, and the most that systemd-analyze(1) may say, in tenths: 0 is closed, 100 is open. Each
/// opening has its reason in the unit.
const UNITS: [(&str, u32); 5] = [
    ("banger-netd", 20),
    ("banger-dns", 15),
    ("banger-dns-route", 15),
    ("banger-vm@web", 20),
    ("banger-reconcile", 10),
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
    let bin = format!("{}/", sandbox.fixtures().bin().display());
    let mut names = Vec::new();
    for folder in [units(), units().join("../../../bins/banger/systemd")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.extension().unwrap_or_default();
            if !["service", "socket", "timer"]
                .iter()
                .any(|own| kind == *own)
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            // The machine's own VMs are the user banger's, in a store of theirs.
            let own = "User=banger\nGroup=banger\nEnvironment=BANGER_STORE=/var/lib/banger/store ";
            let service =
                path.ends_with("banger-vm@.service") || path.ends_with("banger-reconcile.service");
            assert_eq!(text.contains(own), service, "{}", path.display());
            // Verified where it is installed.
            let text = text.replace("/usr/libexec/banger/banger-netd", &netd);
            let text = text.replace("/usr/bin/", &bin);
            let name = path.file_name().unwrap().to_str().unwrap();
            let name = name.replace("@.", "@web.");
            fs::write(directory.join(&name), text).unwrap();
            names.push(name);
        }
    }
    let analyze = |line: &str| {
        let at = directory.display();
        sandbox.sh(&format!(
            "cd {at} && SYSTEMD_UNIT_PATH={at}: systemd-analyze {line}"
        ))
    };
    let verified = analyze(&format!("verify --man=no {}", names.join(" ")));
    assert_eq!((verified.ok(), &*verified.stderr), ("", ""), "{verified}");
    let services = names.iter().filter(|name| name.ends_with(".service"));
    assert_eq!(
        services.count(),
        UNITS.len(),
        "a service without a threshold: {names:?}"
    );
    for (unit, threshold) in UNITS {
        let score = analyze(&format!(
            "security --offline=true --no-pager --threshold={threshold} {unit}.service"
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
