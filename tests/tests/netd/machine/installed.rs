//! `banger system install` on a machine that systemd runs: what runs already is replaced, and what it serves goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lib_net::{Client, PrivilegedOps, SOCKET};

use super::super::{reserve, vm};
use super::{PROGRAM, progress, property, run};

const TREE: &str = "/root/tree";
const SERVICES: [&str; 2] = ["banger-netd.service", "banger-dns.service"];
const SOCKETS: [&str; 3] = [
    "banger-netd.socket",
    "banger-dns.socket",
    "banger-dns-guests.socket",
];

/// Process and program of each.
fn running() -> [(String, PathBuf); 2] {
    SERVICES.map(|service| {
        let pid = property(service, "MainPID");
        let program = fs::read_link(format!("/proc/{pid}/exe"));
        (pid, program.expect("it works in the machine"))
    })
}

/// The image has what an older version installed.
pub(super) fn replaces_what_runs() {
    run("systemctl", &["start", "banger-netd.socket", SERVICES[1]]);
    let mut ops = Client::connect(Path::new(SOCKET)).expect("it works in the machine");
    let interface = reserve(&mut ops, 9).interface;
    let (_, _tap) = ops.attach(vm(9)).expect("it works in the machine");
    let before = running();
    progress("an older one serves a VM");

    // A newer one: the same, and a byte that nobody reads.
    let mut newer = fs::read(PROGRAM).expect("it works in the machine");
    newer.push(0);
    let helpers = Path::new(TREE).join("libexec/banger");
    fs::create_dir_all(&helpers).expect("it works in the machine");
    let place = helpers.join("banger-netd");
    fs::write(&place, &newer).expect("it works in the machine");
    super::executable(&place.display().to_string());
    let banger = format!("{TREE}/bin/banger");
    let said = run(&banger, &["system", "install", "--prefix=/usr", "--json"]);
    let written = said.lines().filter(|line| {
        let step: serde_json::Value = serde_json::from_str(line).expect("a record");
        step["action"] == "write" && step["what"] == PROGRAM && step["changed"] == true
    });
    assert_eq!(written.count(), 1, "{said}");
    progress("a newer one is installed");

    let after = running();
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before.0, after.0, "it is another process");
        assert_eq!(before.1, after.1, "of the program that is there now");
    }
    assert!(fs::read(PROGRAM).is_ok_and(|there| there == newer));
    let active = Command::new("systemctl")
        .arg("is-active")
        .args(SOCKETS)
        .output();
    let active = active.expect("it works in the machine").stdout;
    assert_eq!(active, b"active\nactive\nactive\n");
    let mut ops = Client::connect(Path::new(SOCKET)).expect("it works in the machine");
    let listed = ops.list().expect("it works in the machine");
    let kept = listed.iter().any(|r| r.vm == vm(9) && r.attached);
    assert!(kept, "{listed:?}");
    let links = Path::new("/sys/class/net");
    assert!(links.join(interface.as_str()).exists());
}
