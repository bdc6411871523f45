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

/// Comments that give a reason for an opening, each with the directives behind it up to an empty line or the next
/// comment.
fn reasons(text: &str) -> String {
    let mut reasons = String::new();
    let (mut is_reason, mut was_comment) = (false, false);
    for line in text.lines() {
        let is_comment = line.starts_with('#');
        is_reason = match (is_comment, was_comment) {
            (true, true) => is_reason || line.starts_with("# Opening"),
            (true, false) => line.starts_with("# Opening"),
            (false, _) => is_reason && !line.is_empty(),
        };
        if is_reason {
            reasons.push_str(line);
        }
        was_comment = is_comment;
    }
    reasons
}

/// What systemd-analyze(1) finds open has a reason where it is opened.
#[test]
fn each_opening_has_its_reason() {
    let sandbox = Sandbox::empty();
    let read = |name: &str| {
        let name = name.replace("@web.", "@.");
        let folders = [units(), units().join("../../../bins/banger/systemd")];
        let mut texts = folders
            .iter()
            .filter_map(|folder| fs::read_to_string(folder.join(&name)).ok());
        texts.next().expect("the unit is in the tree")
    };
    let drop_ins = ["disks.conf", "jails.conf"].map(read).concat();
    let mut all: Vec<_> = UNITS
        .iter()
        .map(|(unit, _)| (*unit, read(&format!("{unit}.service"))))
        .collect();
    all.push(("banger-netd", format!("{}\n{drop_ins}", all[0].1)));
    for (unit, text) in all {
        let place = sandbox.path(&format!("{unit}.service"));
        let installed = text.replace("/usr/libexec/banger/banger-netd", "/bin/true");
        fs::write(
            &place,
            installed
                .replace("/usr/bin/banger-net", "/bin/true")
                .replace("/usr/bin/banger-vm", "/bin/true"),
        )
        .unwrap();
        let said = sandbox.sh(&format!(
            "systemd-analyze security --offline=true --no-pager --json=short {}",
            place.display()
        ));
        let checks: Vec<serde_json::Value> = serde_json::from_str(said.ok().trim()).unwrap();
        let reasons = reasons(&text);
        let mut open = 0;
        for check in &checks {
            let exposure = check["exposure"].as_str().unwrap_or("0.0");
            if exposure == "0.0" || exposure.is_empty() || check["set"] == true {
                continue;
            }
            // Such as `User=/DynamicUser=` and `CapabilityBoundingSet=~CAP_NET_ADMIN`.
            let name = check["name"].as_str().unwrap();
            let mut directives = name.split('/').filter_map(|part| part.split('=').next());
            let given = directives.any(|directive| reasons.contains(&format!("{directive}=")));
            assert!(given, "{unit}: no reason for {name}");
            open += 1;
        }
        assert!(open > 3, "{unit}: {said}");
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
