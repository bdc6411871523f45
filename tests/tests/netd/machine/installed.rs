//! `banger system` on a machine that systemd runs: what runs already is replaced, and what it serves goes on.

use std::fs;
use std::path::Path;
use std::process::Command;

use banger_tests::eventually;
use lib_net::{Client, PrivilegedOps, SOCKET};

use super::super::life::PATIENCE;
use super::super::{reserve, vm};
use super::{progress, property, run};

const TREE: &str = "/root/tree";
const SERVICES: [&str; 2] = ["banger-netd.service", "banger-dns.service"];
const SOCKETS: [&str; 3] = [
    "banger-netd.socket",
    "banger-dns.socket",
    "banger-dns-guests.socket",
];

fn system(verb: &str) -> Vec<serde_json::Value> {
    let said = run(&format!("{TREE}/bin/banger"), &["system", verb, "--json"]);
    let records = said.lines().map(serde_json::from_str);
    records.map(|record| record.expect("a record")).collect()
}

fn states(units: &[&str]) -> Vec<String> {
    let said = Command::new("systemctl")
        .arg("is-active")
        .args(units)
        .output();
    // Its status says whether all are active.
    let said = said.expect("it works in the machine").stdout;
    let said = String::from_utf8_lossy(&said);
    said.lines().map(str::to_owned).collect()
}

fn program_of(service: &str) -> (String, std::path::PathBuf) {
    let pid = property(service, "MainPID");
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    (pid, program.expect("it works in the machine"))
}

/// What the image brought is taken away first.
pub(super) fn replaces_what_runs() {
    let units = Path::new("/etc/systemd/system");
    let names = fs::read_dir(units).expect("it works in the machine");
    let names = names.map(|entry| entry.expect("it works in the machine").file_name());
    let ours: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("banger-") && !name.ends_with(".d"))
        .collect();
    let mut stop = vec!["stop"];
    stop.extend(ours.iter().map(String::as_str));
    run("systemctl", &stop);
    for name in &ours {
        fs::remove_file(units.join(name)).expect("it works in the machine");
    }
    let helpers = Path::new(TREE).join("libexec/banger");
    fs::create_dir_all(&helpers).expect("it works in the machine");
    fs::rename(super::PROGRAM, helpers.join("banger-netd")).expect("it works in the machine");
    let steps = system("install");
    assert!(
        steps.iter().any(|step| step["changed"] == true),
        "{steps:?}"
    );
    assert_eq!(states(&SOCKETS), ["active"; 3]);
    progress("banger is installed");
    // Both run, and a VM is attached.
    run("systemctl", &["start", "banger-dns.service"]);
    let mut ops = Client::connect(Path::new(SOCKET)).expect("it works in the machine");
    let interface = reserve(&mut ops, 9).interface;
    let (_, tap) = ops.attach(vm(9)).expect("it works in the machine");
    let before = SERVICES.map(program_of);
    let netd = "/usr/local/libexec/banger/banger-netd";
    assert_eq!(before[0].1, Path::new(netd));
    assert_eq!(before[1].1, Path::new("/usr/local/bin/banger-net"));

    // A newer one: the same, and a byte that nobody reads.
    let newer = helpers.join("banger-netd");
    let mut bytes = fs::read(&newer).expect("it works in the machine");
    bytes.push(0);
    fs::write(&newer, &bytes).expect("it works in the machine");
    let steps = system("install");
    let written = |step: &&serde_json::Value| step["action"] == "write" && step["changed"] == true;
    let written: Vec<_> = steps
        .iter()
        .filter(written)
        .map(|step| &step["what"])
        .collect();
    assert_eq!(written.last(), Some(&&netd.into()), "{steps:?}");
    let after = SERVICES.map(program_of);
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before.0, after.0, "it is another process");
        assert_eq!(before.1, after.1, "of the program that is there now");
    }
    assert_eq!(fs::read(netd).expect("it works in the machine"), bytes);
    assert_eq!(states(&SOCKETS), ["active"; 3]);
    let mut ops = Client::connect(Path::new(SOCKET)).expect("it works in the machine");
    let listed = ops.list().expect("it works in the machine");
    assert!(
        listed.iter().any(|r| r.vm == vm(9) && r.attached),
        "{listed:?}"
    );
    assert!(
        Path::new("/sys/class/net")
            .join(interface.as_str())
            .exists()
    );
    progress("a newer one serves the same VMs");

    drop((tap, ops));
    system("uninstall");
    eventually("all has ended", PATIENCE, || {
        let gone = states(&[&SERVICES[..], &SOCKETS].concat());
        let over = |state: &String| ["inactive", "unknown"].contains(&&**state);
        gone.iter().all(over).then_some(())
    });
    for gone in [
        netd,
        "/usr/local/lib/systemd/system/banger-netd.service",
        SOCKET,
    ] {
        assert!(!Path::new(gone).exists(), "{gone}");
    }
    progress("nothing of it is left");
}
