//! The daemon under the real systemd and with the real device mapper, in one machine that banger boots for all of it. A
//! copy of this test program is what runs inside.
#![allow(clippy::print_stdout, reason = "what was tried is part of the result")]

mod installed;
mod jail;
mod limits;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use banger_tests::{Sandbox, eventually, skipped};
use lib_net::{Client, Code, PrivilegedOps, SOCKET};

use super::disks::{loops, snapshots_hold};
use super::life::PATIENCE;
use super::{reserve, store, vm};
use crate::resolved;

/// Of systemd-analyze(1), in tenths, without drop-ins and with both.
const THRESHOLDS: [u32; 2] = [20, 33];

const PROGRAM: &str = "/usr/libexec/banger/banger-netd";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const DROP_INS: &str = "/etc/systemd/system/banger-netd.service.d";

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helper/netd/systemd")
}

/// A program, and its libraries; what the machine has already is left as it is.
fn add_program(sandbox: &Sandbox, root: &Path, from: &Path, to: &str) {
    let list = sandbox.sh(&format!("ldd {}", from.display()));
    let libraries = list
        .ok()
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    let own = ["libc.so", "libm.so", "libgcc_s.so"];
    let libraries = libraries
        .filter(|path| path.starts_with('/') && !own.iter().any(|name| path.contains(name)))
        .map(|path| (PathBuf::from(path), path.to_owned()));
    add_files(root, libraries.chain([(from.to_owned(), to.to_owned())]));
}

fn add_files(root: &Path, files: impl Iterator<Item = (PathBuf, String)>) {
    for (from, to) in files {
        let place = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("it has a directory"))
            .expect("the sandbox can be written");
        fs::copy(&from, &place).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

/// QEMU as its package has it, and of its parts what emulation of this machine needs.
fn add_qemu(sandbox: &Sandbox, root: &Path) {
    add_program(sandbox, root, Path::new(QEMU), QEMU);
    let firmware = fs::read_dir("/usr/share/qemu").expect("QEMU is installed");
    let firmware = firmware.map(|entry| entry.expect("QEMU is installed").path());
    let own = firmware.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file() && ["qboot.rom", "pvh.bin", "kvmvapic.bin"].contains(&&*name)
    });
    // A module of its own where the package is so divided.
    let modules = ["/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so"].map(PathBuf::from);
    let modules = modules.into_iter().filter(|path| path.exists());
    let parts = own.chain(modules);
    add_files(
        root,
        parts.map(|path| (path.clone(), path.display().to_string())),
    );
}

/// What is in the machine besides its image: drop-ins, a copy of this program, and QEMU.
fn overlay(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.path("overlay");
    let drop_ins = root.join(DROP_INS.trim_start_matches('/'));
    fs::create_dir_all(&drop_ins).expect("the sandbox can be written");
    for name in ["disks.conf", "jails.conf"] {
        fs::copy(units().join(name), drop_ins.join(name)).expect("the sandbox can be written");
    }
    add_qemu(sandbox, &root);
    let own = std::env::current_exe().expect("a process has an executable");
    let bin = sandbox.fixtures().bin();
    for (from, to) in [
        (own, "/root/inside"),
        (bin.join("banger"), "/root/tree/bin/banger"),
        (bin.join("banger-net"), "/root/tree/bin/banger-net"),
        (bin.join("banger-vm"), "/usr/bin/banger-vm"),
    ] {
        // Without what only a debugger reads: all of it goes through an emulated port.
        let stripped = sandbox.path("stripped");
        let strip = format!("strip -o {} {}", stripped.display(), from.display());
        sandbox.sh(&strip).ok();
        add_program(sandbox, &root, &stripped, to);
    }
    // These are static, and small.
    let helpers = ["banger-monitor", "banger-agent"].map(|name| {
        let from = sandbox.fixtures().libexec().join(name);
        (from, format!("/usr/libexec/banger/{name}"))
    });
    add_files(&root, helpers.into_iter());
    add_store(sandbox, &root);
    root
}

/// The host's own, of which nothing large is read there.
fn add_store(sandbox: &Sandbox, root: &Path) {
    let copy = format!(
        "mkdir -p {root}/root/store && tar -C {} --exclude=vms --exclude=blobs --exclude=vmlinuz --exclude=vmlinux \
         --exclude=modules.img --sparse -c . | tar -C {root}/root/store -x",
        sandbox.store().display(),
        root = root.display(),
    );
    sandbox.sh(&copy).ok();
    let kernels = fs::read_dir(root.join("root/store/kernels")).expect("the store has a kernel");
    for kernel in kernels.map(|entry| entry.expect("it is ours").path()) {
        for name in ["vmlinuz", "vmlinux", "modules.img"] {
            if kernel.is_dir() {
                let file = File::create(kernel.join(name)).expect("the sandbox can be written");
                file.set_len(1 << 20).expect("the sandbox can be written");
            }
        }
    }
}

/// With the units as they are shipped.
#[test]
fn under_systemd_with_a_resolver() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    resolved::boot(&sandbox);
    resolved::names_are_routed(&sandbox);
    resolved::network_manager_leaves_our_interfaces_alone(&sandbox);
}

#[test]
fn under_systemd_with_a_device_mapper() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    resolved::boot(&sandbox);
    let copied = sandbox.sh(&format!(
        "tar -C {} -c . | banger-vm exec host -- tar -C / --no-same-owner --keep-directory-symlink --skip-old-files -x",
        overlay(&sandbox).display()
    ));
    copied.ok();
    let part = |before: &str, test: &str| {
        let script = format!(
            "set -e\n{before}\nexec /root/inside --ignored --exact --nocapture netd::machine::{test}"
        );
        // Its own deadline, so that what was said until then is shown.
        let exec = "banger-vm exec --timeout 900 host -- sh -s";
        let ran = sandbox.feed(exec, script.as_bytes());
        println!("{}", ran.stdout);
        ran
    };
    let start = "systemctl daemon-reload\nsystemctl start banger-netd.socket";
    let ran = part(start, "inside");
    // What the daemons wait for, and what the kernel says.
    let cause = || {
        let script = "for p in /proc/[0-9]*; do
                read -r name <$p/comm && [ \"$name\" = banger-netd ] || continue
                echo \"$p\"; cat $p/stack $p/task/*/syscall $p/wchan; ls -l $p/fd
            done
            journalctl --no-pager -k -n 40
            journalctl --no-pager -u banger-netd -n 60";
        sandbox.feed("banger-vm exec host -- sh -s", script.as_bytes())
    };
    assert_eq!(ran.status, 0, "{ran}\n{}", cause());
    assert!(ran.stdout.contains("SCORE "), "{ran}");
    let ran = part("", "installed_inside");
    assert!(ran.stdout.contains("1 passed"), "{ran}\n{}", cause());
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn executable(path: &str) {
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
}

fn property(unit: &str, name: &str) -> String {
    let line = format!("--property={name}");
    run("systemctl", &["show", &line, "--value", unit])
        .trim()
        .to_owned()
}

/// Tells the host how far it is.
fn progress(what: &str) {
    println!("{:>8.1?} {what}", START.elapsed());
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn main_pid() -> String {
    property("banger-netd.service", "MainPID")
}

/// Another daemon serves, whichever way the one before it ended.
fn end_daemon(how: &str) -> Client {
    let before = main_pid();
    match how {
        "restart" => run("systemctl", &["restart", "banger-netd.service"]),
        // A program kill(1) is not everywhere.
        _ => run("sh", &["-c", &format!("kill -9 {before}")]),
    };
    let mut client = eventually("it serves again", PATIENCE, || {
        Client::connect(Path::new(SOCKET)).ok()
    });
    client.status().expect("it answers");
    assert!(main_pid() != before && main_pid() != "0");
    client
}

#[test]
#[ignore = "runs in the machine of the test above"]
fn inside() {
    progress("it begins");
    // Nothing runs until somebody asks.
    assert_eq!(property("banger-netd.service", "ActiveState"), "inactive");
    let mut ops = Client::connect(Path::new(SOCKET)).expect("it works in the machine");
    assert!(ops.up().expect("it works in the machine").0);
    assert_eq!(property("banger-netd.service", "ActiveState"), "active");
    let stat = fs::metadata(SOCKET).expect("it works in the machine");
    assert_eq!(stat.permissions().mode() & 0o777, 0o660);

    progress("the daemon serves");
    jail::living_vms(&mut ops);
    progress("jails and taps outlived daemons");
    limits::are_kept();
    snapshots(&mut ops);
    progress("snapshots are as they should be");
    each_step_of_a_snapshot_fails_once();
    scores();
    progress("scores are known");
}

#[test]
#[ignore = "runs in the machine of the test above, after the other one"]
fn installed_inside() {
    progress("it begins");
    installed::replaces_what_runs();
    progress("it serves the same VM");
}

/// Not on the root, which is an overlay: what is below one could be anything.
const DISKS: &str = "/run/disks";
const IMAGE: &str = "/run/disks/image";
const EXCEPTIONS: &str = "/run/disks/exceptions";
const LENGTH: u64 = 1 << 20;
const SIZE: u64 = 2 << 20;

fn open(path: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("it works in the machine")
}

/// New files of ours alone.
fn disks() -> (File, File) {
    fs::create_dir_all(DISKS).expect("it works in the machine");
    fs::write(IMAGE, vec![7; LENGTH as usize]).expect("it works in the machine");
    fs::write(EXCEPTIONS, vec![0; 1 << 20]).expect("it works in the machine");
    for path in [IMAGE, EXCEPTIONS] {
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it works in the machine");
    }
    (open(IMAGE), open(EXCEPTIONS))
}

/// Devices of the mapper that carry our prefix.
fn mapped() -> usize {
    let devices = fs::read_dir("/sys/block")
        .expect("it works in the machine")
        .flatten();
    let names = devices.filter_map(|entry| fs::read_to_string(entry.path().join("dm/name")).ok());
    names
        .filter(|name| name.starts_with("banger-netd-"))
        .count()
}

/// What of the mapper's devices and of loop devices is there, and who holds it.
fn left() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").expect("it works in the machine");
    let described = devices.flatten().filter_map(|entry| {
        let read = |file| fs::read_to_string(entry.path().join(file)).ok();
        let what = read("dm/name").or_else(|| read("loop/backing_file"))?;
        let ours = what.starts_with("banger-netd-") || what.starts_with(DISKS);
        let holders = fs::read_dir(entry.path().join("holders")).map_or(0, Iterator::count);
        let name = entry.file_name();
        ours.then(|| format!("{} {} held by {holders}", name.display(), what.trim()))
    });
    described.collect()
}

fn nothing_is_left() {
    let mut seen = Vec::new();
    eventually("all devices go", PATIENCE, || {
        let there = left();
        if there.is_empty() {
            return Some(());
        }
        if there != seen {
            progress(&format!("waits for {there:?}"));
            seen = there;
        }
        None
    });
}

fn block(device: &File, at: u64) -> u8 {
    let mut block = [0; 512];
    device
        .read_exact_at(&mut block, at)
        .expect("it works in the machine");
    assert!(block.iter().all(|byte| *byte == block[0]));
    block[0]
}

/// An image that is never changed, and what was written over it.
fn snapshots(ops: &mut Client) {
    let (image, exceptions) = disks();
    snapshots_hold(ops, &image, &exceptions, SIZE);
    nothing_is_left();
    snapshots_hold(&mut child(""), &image, &exceptions, SIZE);
    nothing_is_left();
    let (image, exceptions) = disks();
    reserve(ops, 2);
    let device = File::from(
        ops.snapshot(vm(2), &image, &exceptions, SIZE)
            .expect("it works in the machine"),
    );
    assert!(
        device
            .metadata()
            .expect("it works in the machine")
            .file_type()
            .is_block_device()
    );
    assert_eq!((mapped(), loops(Path::new(DISKS))), (2, 2));
    let refused = ops
        .snapshot(vm(2), &image, &exceptions, SIZE)
        .expect_err("it is refused");
    assert_eq!(refused.code(), Some(Code::Busy), "{refused}");
    assert_eq!(
        (
            block(&device, 0),
            block(&device, LENGTH),
            block(&device, SIZE - 512)
        ),
        (7, 0, 0)
    );
    device
        .write_all_at(&[9; 512], 4096)
        .expect("it works in the machine");
    device
        .write_all_at(&[8; 512], SIZE - 512)
        .expect("it works in the machine");
    device.sync_all().expect("it works in the machine");
    progress("a snapshot is there");
    // The daemon is no part of it.
    *ops = end_daemon("kill");
    assert_eq!((block(&device, 4096), block(&device, 8192)), (9, 7));
    drop(device);
    nothing_is_left();
    let mut bytes = Vec::new();
    File::open(IMAGE)
        .expect("it works in the machine")
        .read_to_end(&mut bytes)
        .expect("it works in the machine");
    assert!(
        bytes.iter().all(|byte| *byte == 7),
        "the image is as it was"
    );
    // The exceptions are kept in their file.
    let device = File::from(
        ops.snapshot(vm(2), &image, &exceptions, SIZE)
            .expect("it works in the machine"),
    );
    assert_eq!((block(&device, 4096), block(&device, SIZE - 512)), (9, 8));
    // Given back while somebody has it: it goes when that one closes it.
    assert!(ops.unmap(vm(2)).expect("it works in the machine").0);
    ops.release(vm(2)).expect("it works in the machine");
    assert_eq!(block(&device, 4096), 9);
    drop(device);
    nothing_is_left();
}

fn child(points: &str) -> Client {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--state", "/root/state"])
        .env(banger_failpoint::VARIABLE, points);
    Client::child(command).expect("it works in the machine")
}

fn each_step_of_a_snapshot_fails_once() {
    let (image, exceptions) = disks();
    let log = "/root/points";
    let mut recorded = child(&format!("record={log}"));
    reserve(&mut recorded, 3);
    drop(
        recorded
            .snapshot(vm(3), &image, &exceptions, SIZE)
            .expect("it works in the machine"),
    );
    drop(recorded);
    nothing_is_left();
    let text = fs::read_to_string(log).expect("it works in the machine");
    let mut counts = std::collections::HashMap::new();
    let mut failed = 0;
    for point in text.lines().filter_map(|line| line.rsplit(' ').next()) {
        let count = counts.entry(point).or_insert(0);
        *count += 1;
        if !point.starts_with("netd.dm.") && !point.starts_with("netd.loop.") {
            continue;
        }
        let mut client = child(&format!("{point}#{count}=error"));
        let refused = client.snapshot(vm(3), &image, &exceptions, SIZE);
        assert!(refused.is_err(), "{point} for the {count}. time");
        progress(&format!("{point} for the {count}. time"));
        drop(client);
        progress("it has ended");
        nothing_is_left();
        failed += 1;
    }
    assert!(failed >= 14, "{counts:?}");
    progress("each step has failed");
    // Killed where the devices do not go by themselves yet: the next one finds them by their names.
    let mut client = child("netd.dm.remove#1=kill");
    client
        .snapshot(vm(3), &image, &exceptions, SIZE)
        .expect_err("it is refused");
    drop(client);
    progress("it is killed");
    assert_eq!(mapped(), 2);
    let mut client = child("");
    assert!(client.unmap(vm(3)).expect("it works in the machine").0);
    // The next one waits until this one has left the state.
    drop(client);
    nothing_is_left();
    progress("what was left is given back");
    // The same for a VM that is not reserved any more.
    let mut client = child("netd.dm.remove#1=kill");
    client
        .snapshot(vm(3), &image, &exceptions, SIZE)
        .expect_err("it is refused");
    drop(client);
    fs::remove_dir_all("/root/state").expect("it works in the machine");
    assert!(
        child("")
            .gc(store(), Vec::new(), 0)
            .expect("it works in the machine")
            .0
    );
    nothing_is_left();
    println!("{failed} steps failed and were undone");
}

/// Of the running service, with both drop-ins and without.
fn scores() {
    for (what, threshold) in [
        ("with disks and jails", THRESHOLDS[1]),
        ("alone", THRESHOLDS[0]),
    ] {
        if what == "alone" {
            fs::remove_dir_all(DROP_INS).expect("it works in the machine");
            run("systemctl", &["daemon-reload"]);
        }
        let threshold = format!("--threshold={threshold}");
        let table = run(
            "systemd-analyze",
            &["security", "--no-pager", &threshold, "banger-netd.service"],
        );
        println!("SCORE {what}: {}", table.lines().last().unwrap_or_default());
    }
}
