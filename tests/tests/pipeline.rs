//! The main job: a real Debian image goes through a real registry into a real VM.

use std::os::unix::fs::symlink;
use std::time::Duration;

use banger_tests::{Compression, Entry, Layer, Running, Sandbox, eventually, sha256, skipped};

#[test]
fn a_pulled_debian_runs_and_nothing_is_left() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let registry = sandbox.registry();
    let nonce = nonce();
    let file = Entry::File("etc/banger-nonce".into(), 0o644, nonce.clone().into_bytes());
    let layer = Layer::new(&[file], Compression::Gzip).unwrap();
    let image = sandbox.fixtures().debian().unwrap().with(layer);
    image.push(registry.address(), "debian", "12").unwrap();
    let reference = format!("{}/debian:12", registry.address());

    let shown = sandbox.sh(&format!(
        "banger-image pull {reference} | banger-vm create --name demo | \
         banger-vm exec -- cat /etc/os-release /etc/banger-nonce"
    ));
    let said = shown.ok();
    assert!(said.contains("ID=debian\n"), "{shown}");
    assert!(said.ends_with(&nonce), "{shown}");

    // The image of a running VM is what was published, to the byte, and a sound file system.
    let disk = sandbox.image_disk(&reference);
    let before = sha256(&std::fs::read(&disk).unwrap());
    sandbox.sh(&format!("e2fsck -fn {}", disk.display())).ok();

    // Root of the distribution: its package manager works on the overlay.
    sandbox
        .sh("banger-vm exec demo -- sh -c 'dpkg --verify && echo >> /etc/os-release && id -u'")
        .ok();
    let run = sandbox.sh(&format!(
        "banger-vm run {reference} -- sh -c 'uname -a; exit 7'"
    ));
    run.exits(7);
    assert!(run.stdout.starts_with("Linux "), "{run}");
    let list = sandbox.sh("banger-vm list").records();
    assert_eq!(list.len(), 1, "`run` leaves no VM: {list:?}");
    assert_eq!(list[0]["name"], "demo");

    sandbox.sh("banger-vm delete --force demo").ok();
    assert_eq!(sha256(&std::fs::read(&disk).unwrap()), before);
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    assert_eq!(
        std::fs::read_dir(sandbox.store().join("vms"))
            .unwrap()
            .count(),
        0
    );
    eventually("no process is left", Duration::from_secs(60), || {
        sandbox.processes().is_empty().then_some(())
    });
    sandbox.sh(&format!("banger-image delete {reference}")).ok();
    assert!(!disk.exists());
}

#[test]
fn an_empty_store_makes_kernel_and_image_of_the_hosts_distribution() {
    if skipped("vm") || skipped("archive") {
        return;
    }
    let sandbox = Sandbox::empty_for_guests();
    let first = sandbox.sh("banger-vm run -- uname -a");
    assert!(first.ok().starts_with("Linux "), "{first}");
    assert_eq!(sandbox.sh("banger-image kernel list").records().len(), 1);
    let images = sandbox.sh("banger-image list").records();
    assert_eq!(images.len(), 1, "{images:?}");

    // Made once: without the tools that made it, it runs again.
    let tools = sandbox.path("tools");
    std::fs::create_dir(&tools).unwrap();
    symlink(
        "/usr/bin/qemu-system-x86_64",
        tools.join("qemu-system-x86_64"),
    )
    .unwrap();
    let mut run = sandbox.command("banger-vm");
    run.env("PATH", &tools)
        .args(["run", "--", "cat", "/etc/os-release"]);
    let again = Running::spawn(run, "banger-vm run -- cat /etc/os-release").finish();
    assert!(again.ok().contains("ID="), "{again}");
    assert_eq!(sandbox.sh("banger-image list").records(), images);
}

fn nonce() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel has random ids")
}
