//! The units for systemd: valid, and as closed as their work allows.

use std::fs;
use std::path::Path;

use banger_tests::{Netd, Sandbox};

/// Of systemd-analyze(1), in tenths: 0 is closed, 100 is open. Each opening has its reason in the unit.
const THRESHOLD: u32 = 20;

fn units() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helper/netd/systemd")
}

#[test]
fn the_units_are_valid_and_closed() {
    let sandbox = Sandbox::empty();
    let directory = sandbox.path("units");
    fs::create_dir(&directory).unwrap();
    let program = Netd::program(&sandbox).display().to_string();
    for name in ["banger-netd.service", "banger-netd.socket"] {
        let text = fs::read_to_string(units().join(name)).unwrap();
        // Verified where it is installed, and with a manual that is there.
        let text = text.replace("/usr/libexec/banger/banger-netd", &program);
        let text = text.replace("man:banger-net(1)", "https://example.org/");
        fs::write(directory.join(name), text).unwrap();
    }
    let service = directory.join("banger-netd.service").display().to_string();
    let socket = directory.join("banger-netd.socket").display().to_string();
    let verified = sandbox.sh(&format!("systemd-analyze verify {service} {socket}"));
    verified.ok();
    let ours = verified
        .stderr
        .lines()
        .filter(|line| line.contains("banger-netd"));
    assert_eq!(ours.count(), 0, "{verified}");
    let score = sandbox.sh(&format!(
        "systemd-analyze security --offline=true --no-pager --threshold={THRESHOLD} {service}"
    ));
    println!("{}", score.stdout.lines().last().unwrap_or_default());
    score.ok();
}

#[test]
fn others_leave_our_interfaces_alone() {
    for name in ["70-banger.network", "banger-networkmanager.conf"] {
        let text = fs::read_to_string(units().join(name)).unwrap();
        for ours in ["banger0", &format!("{}*", banger_proto::TAP_PREFIX)] {
            assert!(text.contains(ours), "{name} without {ours}");
        }
        assert!(text.to_lowercase().contains("unmanaged"), "{name}");
    }
}
