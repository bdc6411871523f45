//! Docker in a VM: a container on the VM's own disk, which is no overlay.

use std::time::Duration;

use banger_tests::{Sandbox, eventually, skipped};

/// dockerd in emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(200);

#[test]
fn a_container_runs_in_a_vm_with_systemd() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::with_system();
    sandbox
        .sh("banger-vm create --quiet --memory 1500M --cpus 1 --name v system")
        .ok();
    sandbox
        .sh("banger-vm exec v -- systemctl start --no-block docker")
        .ok();
    eventually("dockerd answers", PATIENCE, || {
        let version = sandbox.sh("banger-vm exec v -- docker version");
        (version.status == 0).then_some(())
    });
    let driver = sandbox.sh("banger-vm exec v -- docker info --format '{{.Driver}}'");
    assert_eq!(driver.ok(), "overlay2\n");
    // An image of a root file system's tar.
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let layer = banger_tests::Layer::new(
        &[
            banger_tests::Entry::File("bin/busybox".into(), 0o755, busybox),
            banger_tests::Entry::Symlink("bin/sh".into(), "busybox".into()),
            banger_tests::Entry::Symlink("bin/wget".into(), "busybox".into()),
        ],
        banger_tests::Compression::None,
    )
    .unwrap();
    sandbox
        .feed("banger-vm exec v -- docker import - box", &layer.blob)
        .ok();
    let ran = sandbox.sh(
        "banger-vm exec v -- docker run --rm --network none box /bin/sh -c 'echo from the container; exit 7'",
    );
    assert_eq!(ran.exits(7).stdout, "from the container\n", "{ran}");
    // The default network: a bridge, and rules by the kernel's own modules.
    let bridged = sandbox.sh(
        "banger-vm exec v -- docker run --rm box /bin/sh -c 'busybox ip -4 addr show eth0 | busybox grep -c inet'",
    );
    assert_eq!(bridged.ok(), "1\n", "{bridged}");

    sandbox.sh("banger-vm stop --quiet --grace 200 v").ok();
    sandbox.sh("banger-vm start --quiet v").ok();
    sandbox
        .sh("banger-vm exec v -- test -d /var/lib/docker/overlay2")
        .ok();
    sandbox
        .sh("banger-vm exec v -- sh -c 'grep \" /var/lib/docker ext4 \" /proc/mounts'")
        .ok();
}
