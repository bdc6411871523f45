//! Directories of the host in a guest: what it sees, what it may write, and what it cannot reach.

use std::os::unix::fs::symlink;

use banger_tests::{Sandbox, skipped};

#[test]
#[ignore = "Debian's cloud kernel has no 9p; it needs a kernel that has"]
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
    // Not even by mounting it again: the device itself refuses.
    let again = sandbox.sh(
        "banger-vm exec v -- sh -c 'mkdir /w; mount -t 9p -o trans=virtio,version=9p2000.L banger-share-0 /w; echo x > /w/new'",
    );
    assert_ne!(again.status, 0, "{again}");
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

    // Its place is replaced by a link while the VM does not run.
    sandbox.sh("banger-vm stop --quiet v").ok();
    std::fs::rename(&source, sandbox.path("elsewhere")).unwrap();
    symlink("/etc", &source).unwrap();
    sandbox
        .sh("banger-vm start v")
        .exits(2)
        .says("a part of its path has become a symbolic link");
    assert_eq!(sandbox.vm("v")["state"], "stopped");
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
