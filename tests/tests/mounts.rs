//! Directories of the host in a guest: what it sees, what it may write, and what it cannot reach.

use std::os::unix::fs::symlink;

use std::time::Duration;

use banger_tests::{Sandbox, eventually, skipped};

/// Emulated, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_share_is_read_only_unless_asked_and_links_lead_nowhere() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let (source, secret) = (sandbox.path("my,source"), sandbox.path("secret"));
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/file"), "from the host\n").unwrap();
    std::fs::write(&secret, "of the host only\n").unwrap();
    symlink(&secret, source.join("absolute")).unwrap();
    symlink("../secret", source.join("relative")).unwrap();
    let shared = source.display();
    sandbox
        .sh(&format!(
            "banger-vm create --quiet --network none --mount '{shared}:/src' --mount '{shared}:/mnt/rw:rw' --name v busybox"
        ))
        .ok();
    assert_eq!(
        sandbox.sh("banger-vm exec v -- cat /src/sub/file").ok(),
        "from the host\n"
    );
    sandbox
        .sh("banger-vm exec v -- touch /src/new")
        .exits(1)
        .says("Read-only");
    // Not even by mounting it anew: the host's side refuses.
    let again = sandbox.sh(
        "banger-vm exec v -- sh -c 'mount -o remount,rw /src && grep \" /src virtiofs rw\" /proc/mounts && echo x > /src/new'",
    );
    again.exits(1).says("Read-only");
    assert!(again.stdout.contains("virtiofs rw"), "{again}");
    assert!(!source.join("new").exists());
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo from the guest > /mnt/rw/sub/answer; ln -s /etc/passwd /mnt/rw/made'")
        .ok();
    let answer = std::fs::read_to_string(source.join("sub/answer")).unwrap();
    assert_eq!(answer, "from the guest\n");
    // A link is followed by the guest, in the guest; what is outside of the share is not there.
    for link in [
        "/src/absolute",
        "/src/relative",
        "/mnt/rw/../../src/relative",
    ] {
        let read = sandbox.sh(&format!("banger-vm exec v -- cat {link}"));
        assert_eq!((read.status, read.stdout.as_str()), (1, ""), "{read}");
    }
    let own = sandbox.sh("banger-vm exec v -- head -n 1 /mnt/rw/made");
    assert!(own.ok().contains("/root:/bin/sh"), "{own}");

    // Who has no right to mount anything serves it from a user namespace.
    sandbox.sh("banger-vm stop --quiet v").ok();
    sandbox
        .sh("setpriv --bounding-set=-sys_admin banger-vm start --quiet v")
        .ok();
    let server = sandbox
        .processes()
        .into_iter()
        .find(|(_, line)| line.contains("virtiofsd"))
        .expect("the share has a server");
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_ne!(namespace(&server.0.to_string()), namespace("self"));
    sandbox
        .sh("banger-vm exec v -- sh -c 'mount -o remount,rw /src; echo x > /src/new'")
        .exits(1)
        .says("Read-only");
    sandbox
        .sh("banger-vm exec v -- sh -c 'cat /mnt/rw/sub/answer; echo again > /mnt/rw/sub/answer'")
        .ok();
    let answer = std::fs::read_to_string(source.join("sub/answer")).unwrap();
    assert_eq!(answer, "again\n");
    assert!(!source.join("new").exists());
    // When a server dies, the VM goes on, and says so.
    for (pid, line) in sandbox.processes() {
        if line.contains("virtiofsd") {
            end(pid);
        }
    }
    eventually("the loss is in the journal", PATIENCE, || {
        let events = sandbox.sh("banger-vm events v");
        events.stdout.contains("share-lost").then_some(())
    });
    sandbox.sh("banger-vm exec v -- true").ok();

    // Its place is replaced by a link while the VM does not run.
    sandbox.sh("banger-vm kill --quiet v").ok();
    std::fs::rename(&source, sandbox.path("elsewhere")).unwrap();
    symlink("/etc", &source).unwrap();
    sandbox
        .sh("banger-vm start v")
        .exits(2)
        .says("a part of its path has become a symbolic link");
    assert_eq!(sandbox.vm("v")["state"], "stopped");
}

fn end(pid: u32) {
    use nix::sys::signal::{Signal, kill};
    // It may be gone with its parent.
    let _ = kill(
        nix::unistd::Pid::from_raw(pid.cast_signed()),
        Signal::SIGKILL,
    );
}

#[test]
fn what_a_kernel_cannot_do_is_said_before_anything_is_made() {
    let sandbox = Sandbox::prepared();
    let kernels = sandbox.store().join("kernels");
    // A kernel as an older banger imported it, whose modules for shares were left out.
    for kernel in std::fs::read_dir(&kernels).unwrap() {
        let modules = kernel.unwrap().path().join("boot-modules");
        for module in std::fs::read_dir(modules).unwrap() {
            let path = module.unwrap().path();
            if path.to_string_lossy().contains("virtiofs") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    sandbox
        .sh(&format!(
            "banger-vm create --no-start --mount {}:/src --name v busybox",
            source.display()
        ))
        .exits(1)
        .says("has neither 9p nor virtiofs")
        .hints("banger-image kernel import");
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    let made = std::fs::read_dir(sandbox.store().join("vms"));
    assert_eq!(made.map_or(0, Iterator::count), 0);
}

#[test]
fn only_what_is_allowed_can_be_shared() {
    let sandbox = Sandbox::prepared();
    let (allowed, other) = (sandbox.path("allowed"), sandbox.path("other"));
    std::fs::create_dir(&allowed).unwrap();
    std::fs::create_dir(&other).unwrap();
    symlink(&other, allowed.join("out")).unwrap();
    let create = |source: &std::path::Path| {
        sandbox.sh(&format!(
            "BANGER_VM_MOUNT_ROOTS={} banger-vm create --no-start --mount {}:/src --name v busybox",
            allowed.display(),
            source.display()
        ))
    };
    create(&other).exits(2).says("below none of vm.mount-roots");
    let out = create(&allowed.join("out"));
    out.exits(2)
        .says(&format!("it leads to {}", other.display()));
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    create(&allowed).ok();
    sandbox
        .sh("banger-vm create --no-start --mount /tmp:relative --name w busybox")
        .exits(2)
        .says("names no absolute path of the guest");
}

#[test]
fn variables_of_the_vm_are_in_every_command() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("GIVEN=host https_proxy=http://proxy:1 NO_PROXY=local banger-vm create --quiet --network none \
             --vm-env A=b --vm-env GIVEN --vm-env MISSING --env-proxy --name v busybox")
        .ok();
    let env = sandbox.sh("banger-vm exec v -- env");
    let lines: Vec<&str> = env.ok().lines().collect();
    for wanted in [
        "A=b",
        "GIVEN=host",
        "https_proxy=http://proxy:1",
        "NO_PROXY=local",
        "LANG=C.UTF-8",
    ] {
        assert!(lines.contains(&wanted), "no {wanted}: {env}");
    }
    assert!(!env.stdout.contains("MISSING"), "{env}");
    let names = sandbox.sh("banger-vm exec v -- sh -c 'hostname; cat /etc/hosts'");
    assert!(
        names.ok().starts_with("v\n") && names.stdout.contains("127.0.1.1\tv"),
        "{names}"
    );
}
