//! Kinds of disks: each keeps what is written, grows, frees its space, and leaves the image as it was.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use banger_tests::{Compression, Entry, Image, Layer, Sandbox, eventually, sha256, skipped};

/// Emulated, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Blocks of the root file system, in KiB, and its type.
fn root(sandbox: &Sandbox) -> (u64, String) {
    let line = sandbox.sh(
        "banger-vm exec v -- sh -c 'df -kP / | tail -n 1; grep \" / \" /proc/mounts | tail -n 1'",
    );
    let mut lines = line.ok().lines();
    let size = lines
        .next()
        .and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
    let kind = lines.next().and_then(|l| l.split_whitespace().nth(2));
    (size.unwrap_or(0), kind.unwrap_or_default().to_owned())
}

fn kind(name: &str, file: &str) {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let image = sandbox.image_disk("busybox");
    let before = sha256(&std::fs::read(&image).expect("the image is there"));
    let made = sandbox
        .sh(&format!(
            "banger-vm create --network none --name v --disk-kind {name} --disk 64M busybox"
        ))
        .record();
    assert_eq!(made["disk_kind"], name, "{made}");
    // Only a snapshot is a device of the mapper's (dm-snapshot).
    let mapped = sandbox.sh("banger-vm exec v -- sh -c 'cat /sys/block/dm-*/dm/suspended'");
    let works = mapped.stdout.lines().any(|suspended| suspended == "0");
    assert_eq!(works, name == "snapshot", "{mapped}");
    let (small, filesystem) = root(&sandbox);
    assert_eq!(
        filesystem,
        if name == "overlay" { "overlay" } else { "ext4" }
    );
    assert!(
        (40 << 10..=64 << 10).contains(&small),
        "{small} KiB of 64 MiB"
    );
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo kept > /root/file; rm /etc/group; dd if=/dev/urandom of=/root/data bs=1M count=20; \
             sha256sum < /root/data > /root/sum'")
        .ok();
    // Larger while it runs, where the kind can.
    let live = name != "snapshot";
    let (now, later) = match live {
        true => (
            "disk: at once; cpus: would need a restart",
            "disk: in effect now",
        ),
        false => (
            "cpus, disk: would need a restart",
            "disk: from its next start on",
        ),
    };
    sandbox
        .sh("banger-vm set --dry-run v --disk 96M --cpus 2")
        .exits(0)
        .says(now);
    assert_eq!(root(&sandbox).0, small);
    sandbox
        .sh("banger-vm set v --disk 96M")
        .exits(0)
        .says(later);
    let (grown, _) = root(&sandbox);
    match live {
        true => assert!(grown > small + (24 << 10), "{small} KiB became {grown}"),
        false => assert_eq!(grown, small),
    }
    sandbox.sh("banger-vm stop --quiet v").ok();
    let disk = sandbox.vm_directory("v").join(file);
    let check = |when: &str| {
        // The others are a file system only together with their image.
        if matches!(name, "overlay" | "copy") {
            let checked = sandbox.sh(&format!("e2fsck -fn {}", disk.display()));
            assert_eq!(checked.status, 0, "{when}: {checked}");
        }
    };
    check("after it grew live");
    let mut magic = [0; 4];
    std::fs::File::open(&disk)
        .and_then(|mut file| file.read_exact(&mut magic))
        .expect("the disk is there");
    assert_eq!(magic == *b"QFI\xfb", name == "qcow2", "{magic:?}");
    let used = std::fs::metadata(&disk)
        .expect("the disk is there")
        .blocks()
        * 512;
    assert!(
        (20 << 20..64 << 20).contains(&used),
        "{used} bytes for 20 MiB"
    );

    sandbox.sh("banger-vm set --quiet v --disk 128M").ok();
    sandbox.sh("banger-vm start --quiet v").ok();
    let (large, _) = root(&sandbox);
    assert!(
        large > small + (48 << 10) && large > grown,
        "{small} KiB became {grown}, then {large}"
    );
    let kept = sandbox.sh(
        "banger-vm exec v -- sh -c 'cat /root/file; sha256sum < /root/data | cmp - /root/sum; ls /etc; \
         dd if=/dev/zero of=/root/more bs=1M count=60'",
    );
    assert!(kept.ok().starts_with("kept\n"), "{kept}");
    assert!(!kept.stdout.lines().any(|line| line == "group"), "{kept}");
    sandbox.sh("banger-vm stop --quiet v").ok();
    check("after it grew at a start");
    assert_eq!(
        sha256(&std::fs::read(&image).expect("the image is there")),
        before,
        "the image was written"
    );
    sandbox.sh("banger-vm delete --quiet v").ok();
    assert!(!disk.exists());
    assert_eq!(
        std::fs::read_dir(sandbox.store().join("trash")).map_or(0, Iterator::count),
        0
    );
}

#[test]
fn overlay() {
    kind("overlay", "data.img");
}

#[test]
fn snapshot() {
    kind("snapshot", "data.img");
}

#[test]
fn copy() {
    kind("copy", "data.img");
}

#[test]
fn qcow2() {
    kind("qcow2", "data.qcow2");
}

#[test]
fn what_an_image_cannot_be_is_said_before_anything_is_made() {
    let sandbox = Sandbox::prepared();
    let archive = sandbox.path("erofs.tar");
    Image::busybox()
        .unwrap()
        .write_archive(&archive, "small:1")
        .unwrap();
    sandbox
        .sh(&format!(
            "banger-image import --quiet --format erofs {}",
            archive.display()
        ))
        .ok();
    for kind in ["snapshot", "copy", "qcow2"] {
        sandbox
            .sh(&format!(
                "banger-vm create --no-start --disk-kind {kind} --name v small:1"
            ))
            .exits(1)
            .says("needs an image with ext4")
            .hints("--disk-kind overlay");
    }
    sandbox
        .sh("banger-vm create --no-start --disk-kind copy --disk 20M --memory 90M --name v busybox")
        .exits(2)
        .says("memory 90 MiB is out of range");
    // Everything that is wrong, at once.
    let both = sandbox.sh(
        "BANGER_LIBEXEC_DIR=/nowhere banger-vm create --no-start --disk-kind qcow2 --mount /no/such:/x \
         --name v small:1",
    );
    both.says("things are in the way")
        .says("needs an image with ext4")
        .says("banger's helper /nowhere/banger-monitor is missing")
        .says("/no/such cannot be shared");
    assert_ne!(both.status, 0);
    // A VMM that is too old, or was built without a sandbox.
    for (program, expected) in [
        (
            "echo QEMU emulator version 6.2.0",
            "version 6.2 is too old, 7.2 is the oldest that works",
        ),
        (
            "echo -sandbox support is not enabled >&2; exit 1",
            "it has no sandbox",
        ),
    ] {
        let fake = sandbox.path("fake");
        std::fs::create_dir_all(&fake).unwrap();
        let path = fake.join("qemu-system-x86_64");
        std::fs::write(&path, format!("#!/bin/sh\n{program}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let line = format!(
            "PATH={}:$PATH banger-vm create --no-start --name v busybox",
            fake.display()
        );
        sandbox.sh(&line).exits(1).says(expected);
    }
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    assert_eq!(
        std::fs::read_dir(sandbox.store().join("vms")).map_or(0, Iterator::count),
        0
    );
}

#[test]
fn a_work_disk_begins_as_the_image_has_the_home_and_volumes_outlive_vms() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let layer = Layer::new(
        &[
            Entry::Directory("seed/".into(), 0o755),
            Entry::File("seed/.profile".into(), 0o640, b"of the image\n".to_vec()),
            Entry::File("root/hidden".into(), 0o640, Vec::new()),
        ],
        Compression::Gzip,
    )
    .unwrap();
    let archive = sandbox.path("home.tar");
    let mut image = Image::busybox().unwrap().with(layer);
    image.config = serde_json::json!({
        "Env": ["PATH=/bin"], "Labels": {"org.banger.work-seed": "/seed"}
    });
    image.write_archive(&archive, "home:1").unwrap();
    sandbox
        .sh(&format!(
            "banger-image import --quiet {}",
            archive.display()
        ))
        .ok();
    let flags = "--quiet --network none --work-disk 64M --volume data:/srv/data";
    sandbox
        .sh(&format!("banger-vm create {flags} --name v home:1"))
        .ok();
    let home = sandbox.sh(
        "banger-vm exec v -- sh -c 'test -e /root/hidden && echo hidden; stat -c \"%a %u %n\" /root /root/.profile; cat /root/.profile; \
         grep -c \" /root ext4 \" /proc/mounts; echo mine > /root/.profile; echo shared > /srv/data/file'",
    );
    assert_eq!(
        home.ok(),
        "700 0 /root\n640 0 /root/.profile\nof the image\n1\n",
        "{home}"
    );
    let shown = sandbox.sh("banger-vm show --format table v");
    for line in [
        "work_disk: 64 MiB",
        "volumes: [\"data:/srv/data\"]",
        "memory: ",
        "created: 20",
    ] {
        assert!(shown.ok().contains(&format!("\n{line}")), "{shown}");
    }
    let volume = sandbox.sh("banger-vm volume list --json").record();
    assert_eq!(
        (&volume["name"], &volume["vms"][0]),
        (&"data".into(), &"v".into()),
        "{volume}"
    );
    sandbox
        .sh("banger-vm volume delete data")
        .exits(4)
        .says("in use by v");

    // Another VM may have it, but not run with it.
    sandbox
        .sh("banger-vm create --quiet --network none --volume data:/d --name w busybox")
        .exits(4)
        .says("the volume data is in use by v");
    sandbox
        .sh("banger-vm create --quiet --no-start --network none --volume data:/d:ro --name w busybox")
        .ok();
    sandbox.sh("banger-vm start w").exits(4).says("in use by v");
    sandbox.sh("banger-vm stop --quiet v").ok();
    sandbox.sh("banger-vm start --quiet w").ok();
    assert_eq!(
        sandbox.sh("banger-vm exec w -- cat /d/file").ok(),
        "shared\n"
    );
    sandbox
        .sh("banger-vm exec w -- touch /d/new")
        .exits(1)
        .says("Read-only");
    sandbox.sh("banger-vm start v").exits(4).says("in use by w");
    sandbox.sh("banger-vm delete --quiet --force w").ok();

    sandbox.sh("banger-vm start --quiet v").ok();
    assert_eq!(
        sandbox.sh("banger-vm exec v -- cat /root/.profile").ok(),
        "mine\n"
    );
    // Another image under the same home and volume; what was written to the root goes only when told so.
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo root > /etc/mine; test -e /etc/of-the-second && exit 9; true'")
        .ok();
    let layer = Layer::new(
        &[Entry::File(
            "etc/of-the-second".into(),
            0o644,
            b"2".to_vec(),
        )],
        Compression::Gzip,
    )
    .unwrap();
    let mut image = Image::busybox().unwrap().with(layer);
    image.config =
        serde_json::json!({"Env": ["PATH=/bin", "SECOND=yes"], "Cmd": ["/bin/sleep", "1000"]});
    image.write_archive(&archive, "second:1").unwrap();
    sandbox
        .sh(&format!(
            "banger-image import --quiet {}",
            archive.display()
        ))
        .ok();
    sandbox
        .sh("banger-vm set v --image second:1 --discard-root")
        .exits(4)
        .says("can only be changed while it is stopped")
        .hints("banger-vm stop v");
    sandbox.sh("banger-vm stop --quiet v").ok();
    sandbox
        .sh("banger-vm set v --image second:1")
        .exits(1)
        .says("loses what was written to its root")
        .hints("--discard-root");
    sandbox
        .sh("banger-vm set --dry-run v --image second:1 --discard-root")
        .exits(0)
        .says("would change image");
    assert_eq!(sandbox.vm("v")["image_name"], "home:1");
    sandbox
        .sh("banger-vm set --quiet v --image second:1 --discard-root")
        .ok();
    let directory = sandbox.vm_directory("v");
    assert!(!directory.join("data.img").exists() && directory.join("data-1.img").exists());
    // A change that was cut short leaves a disk that is nobody's.
    std::fs::write(directory.join("data-2.img"), "half").unwrap();
    sandbox.sh("banger-vm start --quiet v").ok();
    assert!(!directory.join("data-2.img").exists());
    let second = sandbox.sh(
        "banger-vm exec v -- sh -c 'cat /etc/of-the-second /root/.profile /srv/data/file; echo $SECOND; \
         ls /etc/mine; pidof sleep > /dev/null && echo its command runs'",
    );
    assert_eq!(
        second.stdout, "2mine\nshared\nyes\nits command runs\n",
        "{second}"
    );
    // The old image is free, the new one is not.
    sandbox
        .sh("banger-image delete second:1")
        .exits(4)
        .says("v");
    sandbox.sh("banger-image delete --quiet home:1").ok();
    sandbox.sh("banger-vm delete --quiet --force v").ok();
    sandbox.sh("banger-vm volume delete data").ok();
    assert_eq!(sandbox.sh("banger-vm volume list").ok(), "");
    sandbox
        .sh("banger-vm volume delete data")
        .exits(3)
        .hints("volume list");
}

#[test]
fn a_guest_has_the_devices_that_it_needs_and_gives_memory_back() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let created = sandbox.sh("banger-vm create --memory 600M --name v busybox");
    created.ok();
    let devices = sandbox.sh(
        "banger-vm exec v -- sh -c 'for d in /sys/bus/virtio/devices/*; do readlink $d/driver; done | sed s,.*/,, | sort; \
         cat /sys/bus/pci/devices/*/class | sort; cat /sys/devices/virtual/misc/hw_random/rng_current'",
    );
    // Three disks (image, data, modules); bridges of q35 and the devices of virtio (PCI code and ID assignment).
    let virtio = "virtio_balloon\nvirtio_blk\nvirtio_blk\nvirtio_blk\nvirtio_console\nvirtio_net\nvirtio_rng\n";
    let bridges = "0x060000\n0x060100\n";
    assert!(devices.ok().starts_with(virtio), "{devices}");
    // The source of the kernel's entropy: the driver and a number.
    assert!(devices.stdout.contains("\nvirtio_rng."), "{devices}");
    let classes: Vec<&str> = devices
        .stdout
        .lines()
        .filter(|line| line.starts_with("0x"))
        .collect();
    assert_eq!(
        classes.len(),
        7 + 2,
        "seven devices and {bridges}: {devices}"
    );
    for class in ["0x060000", "0x060100"] {
        assert_eq!(
            classes.iter().filter(|found| **found == class).count(),
            1,
            "{devices}"
        );
    }

    let vmm = sandbox.handle("v", "vmm_pid");
    let status = || std::fs::read_to_string(format!("/proc/{vmm}/status")).unwrap();
    // What `--accel auto` chose is said, and the machine's type has a version (QEMU, "q35").
    let arguments = std::fs::read_to_string(format!("/proc/{vmm}/cmdline")).unwrap();
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    if !processor
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm")
    {
        created.says("no KVM: ").says("emulating the processor");
        assert!(arguments.contains("\0-accel\0tcg"), "{arguments}");
        assert!(arguments.contains("\0pc-q35-"), "{arguments}");
    }
    // Its system calls are filtered (proc_pid_status(5)), whoever started it.
    assert!(status().contains("\nSeccomp:\t2\n"), "{}", status());
    let resident = || {
        let status = status();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    sandbox
        .sh("banger-vm exec v -- sh -c 'mount -o remount,size=400m /dev/shm; dd if=/dev/zero of=/dev/shm/x bs=1M count=300'")
        .ok();
    let full = resident();
    assert!(full > 300 << 10, "{full} KiB");
    sandbox.sh("banger-vm exec v -- rm /dev/shm/x").ok();
    eventually("freed memory is the host's again", PATIENCE, || {
        (resident() + (200 << 10) < full).then_some(())
    });
}
