//! The real QEMU in a jail, in the daemon's unit as it is shipped.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use banger_tests::eventually;
use lib_net::{Acceleration, Client, KernelArguments, Machine, PrivilegedOps, SOCKET, Signal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::life::PATIENCE;
use super::super::{reserve, vm};
use super::{end_daemon, progress, property, run};

/// A kernel for PVH (QEMU's x86_load_linux(); Xen's docs/misc/pvh.pandoc) whose guest says a word on its first serial
/// port, and is idle then.
fn kernel() -> Vec<u8> {
    const ENTRY: u32 = 0x10_0000;
    const CODE: usize = 0x1000;
    /// XEN_ELFNOTE_PHYS32_ENTRY.
    const NOTE: u32 = 18;
    // mov dx, 0x3f8; mov esi, the text
    let mut code = vec![0x66, 0xba, 0xf8, 0x03, 0xbe];
    code.extend((ENTRY + 20).to_le_bytes());
    // lodsb; test al, al; jz +3; out dx, al; jmp -8; hlt; jmp -3
    code.extend([
        0xac, 0x84, 0xc0, 0x74, 3, 0xee, 0xeb, 0xf8, 0xf4, 0xeb, 0xfd,
    ]);
    code.extend(b"the guest speaks\n\0");
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(words(&[u64::from(ENTRY), 64, 0]));
    // Sizes of the headers; two segments.
    for half in [0, 0, 64, 56, 2, 64, 0, 0_u16] {
        file.extend(half.to_le_bytes());
    }
    let (size, entry) = (code.len() as u64, u64::from(ENTRY));
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    file.extend(words(&[CODE as u64, entry, entry, size, size, 0x1000]));
    file.extend([4, 0, 0, 0, 4, 0, 0, 0]);
    file.extend(words(&[176, 0, 0, 24, 24, 4]));
    for word in [4, 8, NOTE] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(words(&[entry]));
    file.resize(CODE, 0);
    file.extend(code);
    // Whole pages, which is how cgroups count.
    file.resize(2 * CODE, 0);
    file
}

/// Reads until `wanted` was said, and its line to the end.
fn hears(mut stream: &UnixStream, wanted: &str) {
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while !said.ends_with(b"\n") || !String::from_utf8_lossy(&said).contains(wanted) {
        let length = stream.read(&mut chunk).expect("it works in the machine");
        let log = || fs::read_to_string("/run/machine/log").unwrap_or_default();
        assert!(length > 0, "{}\n{}", String::from_utf8_lossy(&said), log());
        said.extend(&chunk[..length]);
    }
}

/// QEMU answers, and its guest runs.
fn asks(mut qmp: &UnixStream, command: &str, answer: &str) {
    writeln!(qmp, "{{\"execute\": \"{command}\"}}").expect("it works in the machine");
    hears(qmp, answer);
}

/// A tap and a jail with the real QEMU go on while daemons come and go.
pub(super) fn living_vms(ops: &mut Client) {
    let reservation = reserve(ops, 1);
    let (_, tap) = ops.attach(vm(1)).expect("it works in the machine");
    let interface = PathBuf::from(format!("/sys/class/net/{}", reservation.interface));
    // Not on the root, as the disks of the snapshots.
    fs::create_dir_all("/run/machine").expect("it works in the machine");
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .open("/run/machine/log")
        .expect("it works in the machine");
    let file = |name: &str, content: &[u8]| {
        let path = Path::new("/run/machine").join(name);
        fs::write(&path, content).expect("it works in the machine");
        File::open(path).expect("it works in the machine")
    };
    let (image, initrd) = (kernel(), [0; 4096]);
    let (kernel, initramfs) = (file("kernel", &image), file("initrd", &initrd));
    let pair = || UnixStream::pair().expect("it works in the machine");
    let ((console, one), (qmp, two), (_agent, three)) = (pair(), pair(), pair());
    let machine = Machine {
        acceleration: Acceleration::Emulation,
        cpus: 1,
        memory_mib: 64,
        kernel_arguments: KernelArguments::try_from("quiet").expect("it works in the machine"),
        network: true,
        disks: Vec::new(),
    };
    let descriptors = [
        kernel.as_fd(),
        initramfs.as_fd(),
        log.as_fd(),
        one.as_fd(),
        two.as_fd(),
        three.as_fd(),
        tap.as_fd(),
    ];
    let (jail, process) = ops
        .launch(vm(1), machine, &descriptors)
        .expect("it works in the machine");
    // QEMU's alone from now on.
    drop((one, two, three));
    progress("a jail runs");
    hears(&console, "the guest speaks");
    hears(&qmp, "QMP");
    asks(&qmp, "qmp_capabilities", "return");
    asks(&qmp, "query-status", "running");
    progress("QEMU and its guest answer");
    let scope = format!("banger-jail-{}.scope", vm(1));
    let place = format!("/banger.slice/{scope}");
    assert_eq!(property(&scope, "ControlGroup"), place);
    let cgroup = |name: &str| {
        let path = format!("/sys/fs/cgroup{place}/{name}");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().to_owned()
    };
    // What was asked for, with what QEMU needs besides (`Ceiling`).
    let memory = (64 << 20) + (512 << 20) + (1 << 30) + image.len() + initrd.len();
    assert_eq!(cgroup("memory.max"), memory.to_string());
    assert_eq!(cgroup("memory.swap.max"), memory.to_string());
    assert_eq!(cgroup("pids.max"), "129");
    let pid = cgroup("cgroup.procs");
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("it works in the machine");
    for said in [
        format!("Uid:\t{0}\t{0}\t{0}\t{0}", jail.uid),
        "CapBnd:\t0000000000000000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
        // systemd's and its own.
        "Seccomp:\t2".to_owned(),
        "Name:\tqemu-system".to_owned(),
    ] {
        assert!(status.contains(&said), "{said}: {status}");
    }
    let before = ops.list().expect("it works in the machine");
    for how in ["restart", "kill", "stop and ask"] {
        if how.starts_with("stop") {
            run("systemctl", &["stop", "banger-netd.service"]);
            // The socket starts it again.
        }
        *ops = match how {
            "restart" | "kill" => end_daemon(how),
            _ => Client::connect(Path::new(SOCKET)).expect("it works in the machine"),
        };
        progress(how);
        assert!(interface.exists(), "{how}");
        assert_eq!(
            ops.list().expect("it works in the machine"),
            before,
            "{how}"
        );
        assert!(
            ops.signal(vm(1), None)
                .expect("it works in the machine")
                .1
                .running,
            "{how}"
        );
        asks(&qmp, "query-status", "running");
    }
    assert!(
        ops.signal(vm(1), Some(Signal::Kill))
            .expect("it works in the machine")
            .0
    );
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut polled, PollTimeout::from(60_000_u16)).expect("it works in the machine"),
        1
    );
    eventually("its scope goes", PATIENCE, || {
        (property(&scope, "ActiveState") == "inactive").then_some(())
    });
    drop(tap);
    ops.release(vm(1)).expect("it works in the machine");
}
