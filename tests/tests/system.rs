//! `banger system`: into a root directory that a test made, and out of it again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_tests::{Sandbox, skipped};

/// Files and links of a tree, with modes.
fn tree(root: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("files of the test are its own") {
            let entry = entry.expect("files of the test are its own");
            let metadata = entry.metadata().expect("files of the test are its own");
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                let path = entry
                    .path()
                    .strip_prefix(root)
                    .expect("files of the test are its own")
                    .to_owned();
                found.push((path, metadata.permissions().mode() & 0o7777));
            }
        }
    }
    found.sort();
    found
}

/// A root directory with what systemd's tools look at, as a Debian has it.
fn root(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.path("root");
    fs::create_dir_all(root.join("etc/NetworkManager")).expect("files of the test are its own");
    fs::create_dir_all(root.join("usr/bin")).expect("files of the test are its own");
    let line = "root:x:0:0:root:/root:/bin/sh\n";
    fs::write(root.join("etc/passwd"), line).expect("files of the test are its own");
    fs::write(root.join("etc/group"), "root:x:0:\nkvm:x:105:\n")
        .expect("files of the test are its own");
    root
}

#[test]
fn install_brings_all_that_a_machine_needs_and_uninstall_takes_it_away() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let root = root(&sandbox);
    let before = tree(&root);
    let command = |verb: &str| format!("banger system {verb} --root {}", root.display());

    let said = sandbox.sh(&command("install --dry-run"));
    assert!(said.records().iter().all(|step| step["changed"] == false));
    assert_eq!(tree(&root), before, "a dry run changes nothing");

    let installed = sandbox.sh(&command("install")).records();
    assert!(installed.iter().any(|step| step["changed"] == true));
    let files = tree(&root);
    let mode = |path: &str| {
        let found = files.iter().find(|(other, _)| other == Path::new(path));
        found.unwrap_or_else(|| panic!("no {path} in {files:#?}")).1
    };
    for program in [
        "bin/banger-vm",
        "libexec/banger/banger-netd",
        "libexec/banger/banger-agent",
    ] {
        assert_eq!(mode(&format!("usr/local/{program}")), 0o755);
    }
    let unit = "usr/local/lib/systemd/system/banger-netd.service";
    assert_eq!(mode(unit), 0o644);
    let text = fs::read_to_string(root.join(unit)).unwrap();
    assert!(
        text.contains("ExecStart=/usr/local/libexec/banger/banger-netd "),
        "{text}"
    );
    assert!(
        fs::read_to_string(root.join("etc/group"))
            .unwrap()
            .contains("\nbanger:x:")
    );
    assert!(
        fs::read_to_string(root.join("etc/passwd"))
            .unwrap()
            .contains("\nbanger:x:")
    );
    let kvm = fs::read_to_string(root.join("etc/group")).unwrap();
    assert!(kvm.contains("kvm:x:105:banger\n"), "{kvm}");
    for directory in ["run/banger/vms", "var/lib/banger/store"] {
        let metadata = fs::metadata(root.join(directory)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700, "{directory}");
    }
    let enabled = root.join("etc/systemd/system/sockets.target.wants/banger-netd.socket");
    assert!(enabled.is_symlink());

    let again = sandbox.sh(&command("install")).records();
    let written = |step: &&serde_json::Value| step["action"] == "write" && step["changed"] == true;
    assert_eq!(again.iter().find(written), None);
    assert_eq!(tree(&root), files);

    // What the daemon does beyond the network is chosen, and stays chosen.
    let drop_in = |name: &str| {
        let path = "usr/local/lib/systemd/system/banger-netd.service.d";
        fs::read_to_string(root.join(path).join(name)).ok()
    };
    assert_eq!((drop_in("disks.conf"), drop_in("jails.conf")), (None, None));
    sandbox.sh(&command("install --offer disks,jails")).ok();
    let disks = include_str!("../../helper/netd/systemd/disks.conf");
    assert_eq!(drop_in("disks.conf").as_deref(), Some(disks));
    sandbox.sh(&command("install")).ok();
    assert!(drop_in("disks.conf").is_some() && drop_in("jails.conf").is_some());
    sandbox.sh(&command("install --offer jails")).ok();
    assert!(drop_in("disks.conf").is_none() && drop_in("jails.conf").is_some());
    let both = sandbox.sh(&command("install --offer none,jails"));
    both.exits(2).says("--offer none goes with no other");
    sandbox.sh(&command("install --offer none")).ok();
    assert_eq!(tree(&root), files);
    sandbox.sh(&command("install --offer disks")).ok();

    // Somebody's own change is theirs.
    fs::write(root.join(unit), "[Service]\nExecStart=/bin/true\n").unwrap();
    sandbox.sh(&command("uninstall")).ok();
    let left: Vec<PathBuf> = tree(&root).into_iter().map(|(path, _)| path).collect();
    let expected = |path: &Path| {
        before.iter().any(|(other, _)| other == path)
            || path == Path::new(unit)
            // Backups and the lock that systemd-sysusers leaves (systemd-sysusers(8)).
            || path.starts_with("etc") && !path.starts_with("etc/systemd") && !path.starts_with("etc/NetworkManager")
    };
    for path in &left {
        assert!(expected(path), "{} is left of {left:#?}", path.display());
    }
    let twice = sandbox.sh(&command("uninstall"));
    twice.exits(3).hints("package");
}

#[test]
fn what_cannot_be_installed_into_is_said() {
    let sandbox = Sandbox::empty();
    let missing = sandbox.sh("banger system install --root /nowhere");
    missing.exits(3).says("/nowhere is no directory");
    let elsewhere = sandbox.sh("banger system install --dry-run --prefix /opt");
    elsewhere.exits(2).says("/opt").hints("/usr/local");
    let relative = sandbox.sh("banger system install --dry-run --prefix usr");
    relative.exits(2).says("--prefix wants an absolute path");
    // The machine itself, unless it is a systemd that this test must not touch.
    if !Path::new("/run/systemd/system").exists() && !skipped("root") {
        let live = sandbox.sh("banger system install");
        live.exits(1)
            .says("systemd does not run this machine")
            .hints("--root");
    }
}
