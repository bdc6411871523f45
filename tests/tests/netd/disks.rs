//! Block devices of files: the real loop devices of this host. Its kernel has no device mapper, so snapshots are tried in
//! a machine (`machine`).

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_tests::{Netd, Netns, Sandbox, eventually};
use lib_net::{Client, Code, NetError, PrivilegedOps, Simulated};

use super::life::PATIENCE;
use super::{connect, reserve, sandbox, vm};

/// Loop devices of files in a directory.
pub(crate) fn loops(directory: &Path) -> usize {
    let devices = fs::read_dir("/sys/block")
        .expect("there are block devices")
        .flatten();
    let files =
        devices.filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok());
    files
        .filter(|file| Path::new(file).starts_with(directory))
        .count()
}

fn file(sandbox: &Sandbox, name: &str, content: &[u8]) -> (PathBuf, File) {
    let path = sandbox.path(name);
    fs::write(&path, content).expect("the sandbox can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("it is ours");
    (path, file)
}

fn code<T: std::fmt::Debug>(result: Result<T, NetError>) -> Option<Code> {
    result.expect_err("it is refused").code()
}

/// What every end of the seam does alike.
fn holds(sandbox: &Sandbox, ops: &mut impl PrivilegedOps) {
    let (_, image) = file(sandbox, "image", &[7; 8192]);
    assert_eq!(
        code(ops.loop_device(vm(1), &image, false)),
        Some(Code::NotFound)
    );
    assert_eq!(code(ops.unmap(vm(1))), Some(Code::NotFound));
    reserve(ops, 1);
    assert!(!ops.unmap(vm(1)).expect("nothing there is no error").0);
    let device = ops
        .loop_device(vm(1), &image, false)
        .expect("it is a file of ours");
    let second = ops
        .loop_device(vm(1), &image, true)
        .expect("it is a file of ours");
    assert!(ops.unmap(vm(1)).expect("it is allowed").0);
    drop((device, second));
    eventually("they go when they are closed", PATIENCE, || {
        (!ops.unmap(vm(1)).expect("it is allowed").0).then_some(())
    });
    let (reader, _writer) = std::io::pipe().expect("pipes can be made");
    assert_eq!(
        code(ops.loop_device(vm(1), &reader, true)),
        Some(Code::Invalid)
    );
    let (path, shared) = file(sandbox, "shared", &[0; 4096]);
    fs::set_permissions(path, fs::Permissions::from_mode(0o602)).expect("it is ours");
    assert_eq!(
        code(ops.loop_device(vm(1), &shared, false)),
        Some(Code::Invalid)
    );
    assert_eq!(
        code(ops.snapshot(vm(1), &image, &shared, 8192)),
        Some(Code::Invalid)
    );
    let kept = ops
        .loop_device(vm(1), &image, false)
        .expect("it is a file of ours");
    assert!(ops.release(vm(1)).expect("it is allowed").0);
    drop(kept);
}

/// The same for snapshots, where there is a device mapper.
pub(crate) fn snapshots_hold(
    ops: &mut impl PrivilegedOps,
    image: &File,
    exceptions: &File,
    size: u64,
) {
    let refused = ops.snapshot(vm(5), image, exceptions, size);
    assert_eq!(code(refused), Some(Code::NotFound));
    reserve(ops, 5);
    let device = ops
        .snapshot(vm(5), image, exceptions, size)
        .expect("both are files of ours");
    let twice = ops.snapshot(vm(5), image, exceptions, size);
    assert_eq!(code(twice), Some(Code::Busy));
    assert!(ops.unmap(vm(5)).expect("it is allowed").0);
    drop(device);
    eventually("it goes when it is closed", PATIENCE, || {
        (!ops.unmap(vm(5)).expect("it is allowed").0).then_some(())
    });
    let kept = ops
        .snapshot(vm(5), image, exceptions, size)
        .expect("it is free again");
    assert!(ops.release(vm(5)).expect("it is allowed").0);
    drop(kept);
}

#[test]
fn every_end_makes_block_devices() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--offer disks");
    holds(&sandbox, &mut connect(&netd));
    netd.kill();
    holds(
        &sandbox,
        &mut Client::child(Netd::child(&sandbox, &netns, "netd")).unwrap(),
    );
    holds(&sandbox, &mut Simulated::new(0));
    let (_, image) = file(&sandbox, "image", &[7; 8192]);
    let (_, exceptions) = file(&sandbox, "exceptions", &[0; 4096]);
    // The other ends do the same in a machine that has a device mapper (`machine`).
    snapshots_hold(&mut Simulated::new(0), &image, &exceptions, 8192);
    eventually("none is left", PATIENCE, || {
        (loops(&sandbox.path("")) == 0).then_some(())
    });
}

#[test]
fn a_file_is_a_block_device_while_somebody_has_it() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--offer disks");
    let mut ops = connect(&netd);
    reserve(&mut ops, 2);
    let (path, image) = file(&sandbox, "image", &[7; 16384]);
    let device = File::from(ops.loop_device(vm(2), &image, false).unwrap());
    assert!(device.metadata().unwrap().file_type().is_block_device());
    assert_eq!(loops(&sandbox.path("")), 1);
    device.write_all_at(&[9; 4096], 4096).unwrap();
    device.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap()[4095..4097], [7, 9]);
    let read_only = File::from(ops.loop_device(vm(2), &image, true).unwrap());
    assert!(read_only.write_at(&[1; 512], 0).is_err());
    // The daemon dies; a new one finds in the kernel what is there.
    netd.kill();
    let netd = Netd::start(&sandbox, &netns, "--offer disks");
    let mut ops = connect(&netd);
    assert_eq!(loops(&sandbox.path("")), 2);
    let mut first = [0; 2];
    (&device).read_exact(&mut first).unwrap();
    assert_eq!(first, [7, 7], "it is used as before");
    assert!(ops.unmap(vm(2)).unwrap().0);
    drop((device, read_only));
    eventually("they go when they are closed", PATIENCE, || {
        (loops(&sandbox.path("")) == 0).then_some(())
    });
    assert!(!ops.unmap(vm(2)).unwrap().0);
    // A caller may have so many, and a VM that nobody reserved has none.
    let held: Vec<OwnedFd> = (0..8)
        .map(|_| ops.loop_device(vm(2), &image, true).unwrap())
        .collect();
    assert_eq!(
        code(ops.loop_device(vm(2), &image, true)),
        Some(Code::Exhausted)
    );
    drop(held);
    eventually("they go when they are closed", PATIENCE, || {
        (loops(&sandbox.path("")) == 0).then_some(())
    });
    // This host has no device mapper, and nothing of a refused snapshot is left.
    if !Path::new("/dev/mapper/control").exists() {
        let (_, exceptions) = file(&sandbox, "exceptions", &[0; 4096]);
        let refused = ops.snapshot(vm(2), &image, &exceptions, 16384).unwrap_err();
        assert!(
            refused.to_string().contains("cannot map a snapshot"),
            "{refused}"
        );
    }
    assert_eq!(loops(&sandbox.path("")), 0);
}

#[test]
fn a_device_that_cannot_be_taken_away_stays() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let child = |points: &str| {
        let mut command = Netd::child(&sandbox, &netns, "netd");
        command.env(banger_failpoint::VARIABLE, points);
        Client::child(command).expect("it serves, whatever fails")
    };
    reserve(&mut child(""), 6);
    let (_, image) = file(&sandbox, "image", &[7; 8192]);
    for point in [
        "netd.loop.control#1",
        "netd.loop.open#1",
        "netd.loop.configure#1",
    ] {
        let made = child(&format!("{point}=error")).loop_device(vm(6), &image, false);
        assert_eq!(code(made), Some(Code::Failed), "{point}");
        assert_eq!(loops(&sandbox.path("")), 0, "{point}");
    }
    let device = child("").loop_device(vm(6), &image, false).unwrap();
    let before = child("").list().unwrap();
    assert_eq!(before[0].devices, 1);
    let stuck = "netd.loop.clear#1=error";
    assert_eq!(code(child(stuck).unmap(vm(6))), Some(Code::Failed));
    assert_eq!(code(child(stuck).release(vm(6))), Some(Code::Failed));
    assert_eq!(child("").list().unwrap(), before);
    assert!(child("").release(vm(6)).unwrap().0);
    drop(device);
    eventually("it goes when it is closed", PATIENCE, || {
        (loops(&sandbox.path("")) == 0).then_some(())
    });
}

#[test]
fn files_that_are_not_the_callers_alone_are_refused() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--offer disks");
    let mut ops = connect(&netd);
    reserve(&mut ops, 3);
    let (path, image) = file(&sandbox, "image", &[0; 4096]);
    let link = sandbox.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let null = File::open("/dev/null").unwrap();
    let directory = File::open(sandbox.path("home")).unwrap();
    let reading = File::open(&path).unwrap();
    let handle = File::from(
        nix::fcntl::open(
            &path,
            nix::fcntl::OFlag::O_PATH,
            nix::sys::stat::Mode::empty(),
        )
        .unwrap(),
    );
    let (_, others) = file(&sandbox, "others", &[0; 4096]);
    std::os::unix::fs::fchown(&others, Some(4001), None).unwrap();
    let (_, grouped) = file(&sandbox, "grouped", &[0; 4096]);
    grouped
        .set_permissions(fs::Permissions::from_mode(0o660))
        .unwrap();
    for (descriptor, why) in [
        (null.as_fd(), "no regular file"),
        (directory.as_fd(), "no regular file"),
        (reading.as_fd(), "not open for reading and writing"),
        (handle.as_fd(), "not open for anything"),
        (others.as_fd(), "not the caller's own"),
        (grouped.as_fd(), "writable by others"),
    ] {
        let refused = ops.loop_device(vm(3), descriptor, false).unwrap_err();
        assert_eq!(refused.code(), Some(Code::Invalid), "{refused}");
        assert!(refused.to_string().contains(why), "{refused} without {why}");
    }
    for (size, length) in [(0, 4096), (4095, 4096), (4096, 8192), (8192, 1000)] {
        image.set_len(length).unwrap();
        let (_, exceptions) = file(&sandbox, "exceptions", &[0; 4096]);
        let refused = ops.snapshot(vm(3), &image, &exceptions, size).unwrap_err();
        assert!(
            refused.to_string().contains("must be a multiple"),
            "{refused}"
        );
    }
    assert_eq!(loops(&sandbox.path("")), 0);
}

#[test]
fn what_the_administrator_does_not_offer_is_refused() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut ops = connect(&netd);
    reserve(&mut ops, 4);
    let (_, image) = file(&sandbox, "image", &[0; 4096]);
    let refused = ops.loop_device(vm(4), &image, false).unwrap_err();
    assert_eq!(refused.code(), Some(Code::Denied));
    assert!(
        refused.to_string().contains("does not offer disks"),
        "{refused}"
    );
    assert_eq!(code(ops.signal(vm(4), None)), Some(Code::Denied));
}
