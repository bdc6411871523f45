//! Machine monitors in jails: the real QEMU, which boots a real kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use banger_tests::{Netd, Netns, Sandbox, eventually, skipped};
use lib_net::{
    Acceleration, Client, Code, Disk, Jail, KernelArguments, Machine, NetError, PrivilegedOps,
    Signal, Simulated,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::life::PATIENCE;
use super::{connect, reserve, vm};

/// What a machine is made of, and our side of its sockets.
struct Parts {
    files: Vec<File>,
    theirs: Vec<UnixStream>,
    console: UnixStream,
    qmp: UnixStream,
    _agent: UnixStream,
    disks: Vec<File>,
    log: PathBuf,
}

impl Parts {
    fn new(sandbox: &Sandbox) -> Parts {
        let kernels = sandbox.store().join("kernels");
        let kernel = fs::read_dir(kernels)
            .expect("the store has a kernel")
            .flatten();
        let kernel = kernel.map(|entry| entry.path()).find(|path| path.is_dir());
        let kernel = kernel.expect("the store has a kernel");
        let log = sandbox.path("vmm.log");
        let append = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log);
        let pair = || UnixStream::pair().expect("sockets can be made");
        let ((console, one), (qmp, two), (agent, three)) = (pair(), pair(), pair());
        let disk = sandbox.path("disk");
        fs::write(&disk, vec![1; 1 << 20]).expect("the sandbox can be written");
        let disk = OpenOptions::new()
            .read(true)
            .write(true)
            .open(disk)
            .expect("it is ours");
        Parts {
            files: vec![
                File::open(kernel.join("vmlinux")).expect("a kernel has an ELF file"),
                File::open(initramfs(sandbox)).expect("it was just made"),
                append.expect("the sandbox can be written"),
            ],
            theirs: vec![one, two, three],
            console,
            qmp,
            _agent: agent,
            disks: vec![disk],
            log,
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let files = self.files.iter().map(AsFd::as_fd);
        let sockets = self.theirs.iter().map(AsFd::as_fd);
        let disks = self.disks.iter().map(AsFd::as_fd);
        files.chain(sockets).chain(disks).collect()
    }

    /// The other sides are the machine monitor's alone.
    fn started(&mut self) {
        self.theirs.clear();
    }
}

/// busybox, and an init that says that it runs.
fn initramfs(sandbox: &Sandbox) -> PathBuf {
    let script = "set -e
        mkdir -p root/bin root/dev
        cp /bin/busybox root/bin/busybox
        printf '#!/bin/busybox sh\\necho its init speaks\\nexec /bin/busybox sleep 1000000\\n' > root/init
        chmod 755 root/init
        cd root && find . | busybox cpio -o -H newc > ../initramfs";
    sandbox.sh(script).ok();
    sandbox.path("initramfs")
}

fn machine() -> Machine {
    Machine {
        acceleration: Acceleration::Emulation,
        cpus: 1,
        memory_mib: 128,
        kernel_arguments: KernelArguments::try_from("console=ttyS0 panic=-1 rdinit=/init")
            .expect("it is text"),
        network: false,
        disks: vec![Disk { read_only: false }],
    }
}

fn ends(process: &OwnedFd) {
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut polled, PollTimeout::from(60_000_u16)).expect("it can be watched");
    assert_eq!(ready, 1, "it does not end");
}

fn code<T: std::fmt::Debug>(result: Result<T, NetError>) -> Option<Code> {
    result.expect_err("it is refused").code()
}

fn is(running: bool, jail: &Jail) -> bool {
    jail.running == running && jail.vm == vm(41) && jail.uid > 100_000
}

/// What every end of the seam does alike.
fn holds(sandbox: &Sandbox, ops: &mut impl PrivilegedOps) {
    let parts = Parts::new(sandbox);
    assert_eq!(
        code(ops.launch(vm(41), machine(), &parts.descriptors())),
        Some(Code::NotFound)
    );
    assert_eq!(code(ops.signal(vm(41), None)), Some(Code::NotFound));
    reserve(ops, 41);
    let (sent, jail) = ops
        .signal(vm(41), Some(Signal::Kill))
        .expect("nothing there is no error");
    assert!(!sent && is(false, &jail));
    let (jail, process) = ops
        .launch(vm(41), machine(), &parts.descriptors())
        .expect("all is well");
    assert!(is(true, &jail));
    assert_eq!(
        code(ops.launch(vm(41), machine(), &parts.descriptors())),
        Some(Code::Busy)
    );
    let (sent, jail) = ops.signal(vm(41), None).expect("it is allowed");
    assert!(!sent && is(true, &jail));
    assert!(
        ops.signal(vm(41), Some(Signal::Kill))
            .expect("it is allowed")
            .0
    );
    ends(&process);
    let (_, process) = ops
        .launch(vm(41), machine(), &parts.descriptors())
        .expect("it is free again");
    let none = Machine {
        cpus: 0,
        ..machine()
    };
    assert_eq!(
        code(ops.launch(vm(41), none, &parts.descriptors())),
        Some(Code::Invalid)
    );
    assert!(ops.release(vm(41)).expect("it is allowed").0);
    ends(&process);
}

/// Cgroups are the machine's: who looks at all jails, and ends those that nobody reserved, must be alone.
static JAILS: RwLock<()> = RwLock::new(());

fn sandbox() -> Option<(RwLockReadGuard<'static, ()>, Sandbox)> {
    if skipped("vm") || skipped("root") {
        return None;
    }
    let turn = JAILS.read().unwrap_or_else(PoisonError::into_inner);
    Some((turn, Sandbox::for_guests()))
}

#[test]
fn every_end_starts_and_ends_jails() {
    let Some((_turn, sandbox)) = sandbox() else {
        return;
    };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--offer jails");
    holds(&sandbox, &mut connect(&netd));
    netd.kill();
    holds(
        &sandbox,
        &mut Client::child(Netd::child(&sandbox, &netns, "netd")).unwrap(),
    );
    holds(&sandbox, &mut Simulated::new(0));
}

/// The process that has the socket's other side, as `SO_PEERCRED` of a pair cannot say: the one of that uid.
fn jailed(uid: u32) -> u32 {
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
    let mut found: Vec<u32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| field(*pid, "Uid:").starts_with(&format!("{uid}\t")))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn a_kernel_boots_in_a_jail_that_has_nothing() {
    let Some((_turn, sandbox)) = sandbox() else {
        return;
    };
    let netns = Netns::new(&sandbox);
    // Whoever starts the daemon may leave it descriptors that the next program inherits.
    let stray = "exec 8< /dev/zero 9< /etc/passwd;";
    let arguments = "--offer jails --first-uid 1900000000";
    let netd = Netd::start_at(&sandbox, &netns, &sandbox.netd_socket(), stray, arguments);
    let mut ops = connect(&netd);
    let address = reserve(&mut ops, 42).address;
    let (_, tap) = ops.attach(vm(42)).unwrap();
    let mut parts = Parts::new(&sandbox);
    let mut descriptors = parts.descriptors();
    descriptors.insert(6, tap.as_fd());
    let networked = Machine {
        network: true,
        ..machine()
    };
    let (jail, process) = ops.launch(vm(42), networked, &descriptors).unwrap();
    drop(descriptors);
    parts.started();
    drop(tap);
    assert_eq!(jail.uid, 1_900_000_000 + u32::from(address.octets()[3]));

    let pid = jailed(jail.uid);
    let four = format!("{0}\t{0}\t{0}\t{0}", jail.uid);
    assert_eq!(
        (field(pid, "Uid:"), field(pid, "Gid:")),
        (four.clone(), four)
    );
    assert_eq!(field(pid, "Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(pid, "NoNewPrivs:"), "1");
    eventually("QEMU has set up its own filter", PATIENCE, || {
        (field(pid, "Seccomp:") == "2").then_some(())
    });
    let inside = |path: &str| PathBuf::from(format!("/proc/{pid}/root{path}"));
    let mut names: Vec<_> = fs::read_dir(inside("/"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    names.sort();
    let names: Vec<_> = names.iter().filter_map(|name| name.to_str()).collect();
    for seen in &names {
        assert!(
            [
                "dev", "etc", "initrd", "kernel", "lib", "lib64", "nix", "usr"
            ]
            .contains(seen),
            "{names:?}"
        );
    }
    let etc: Vec<_> = fs::read_dir(inside("/etc"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(etc.len() <= 1, "{etc:?}");
    let programs = fs::read_dir(inside("/usr/bin")).unwrap().count();
    assert_eq!(programs, 1, "its own");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    for line in mounts.lines().filter(|line| !line.contains(" /dev/")) {
        let options = line.split(' ').nth(3).unwrap();
        assert!(options.starts_with("ro,nosuid,nodev"), "{line}");
    }
    let namespace =
        |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["mnt", "net", "ipc", "uts"] {
        let (theirs, ours) = (namespace(&pid.to_string(), kind), namespace("self", kind));
        assert_ne!(theirs, ours, "{kind}");
        assert_ne!(theirs, namespace(&netns.pid().to_string(), kind), "{kind}");
    }
    let interfaces = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert_eq!(
        interfaces.lines().count(),
        3,
        "loopback alone: {interfaces}"
    );
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = format!("banger.slice/banger-jail-{}.scope", vm(42));
    assert!(
        cgroups
            .lines()
            .any(|line| line.starts_with("0::") && line.ends_with(&own)),
        "{cgroups}"
    );
    // Files that were passed, sockets, a tap, and what QEMU itself makes; none of the daemon's.
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(to) = fs::read_link(entry.path()) else {
            continue;
        };
        let to = to.to_string_lossy().into_owned();
        let ours = [parts.log.clone(), sandbox.path("disk")];
        let known = ours.iter().any(|path| to == path.to_string_lossy())
            || [
                "socket:",
                "anon_inode:",
                "/dev/null",
                "/dev/net/tun",
                "/dev/urandom",
                "/memfd:",
            ]
            .iter()
            .any(|kind| to.starts_with(kind));
        assert!(known, "{to}");
    }

    // The kernel runs, and its init.
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("its init speaks") {
        let length = parts.console.read(&mut chunk).unwrap();
        assert!(
            length > 0,
            "{}\n{}",
            String::from_utf8_lossy(&seen),
            fs::read_to_string(&parts.log).unwrap()
        );
        seen.extend(&chunk[..length]);
    }
    // Signals by way of the daemon, which may be another one by now.
    netd.kill();
    let netd = Netd::start(&sandbox, &netns, "--offer jails --first-uid 1900000000");
    let mut ops = connect(&netd);
    assert!(ops.signal(vm(42), None).unwrap().1.running);
    assert!(ops.signal(vm(42), Some(Signal::Stop)).unwrap().0);
    eventually("it is stopped", PATIENCE, || {
        field(pid, "State:").starts_with('T').then_some(())
    });
    ops.signal(vm(42), Some(Signal::Continue)).unwrap();
    // The disk is there, and QMP serves.
    writeln!(
        parts.qmp,
        "{{\"execute\": \"qmp_capabilities\"}}\n{{\"execute\": \"query-block\"}}"
    )
    .unwrap();
    let mut said = String::new();
    while !said.contains("virtio-backend") {
        let length = parts.qmp.read(&mut chunk).unwrap();
        assert!(length > 0, "{said}");
        said += &String::from_utf8_lossy(&chunk[..length]);
    }
    ops.signal(vm(42), Some(Signal::Term)).unwrap();
    ends(&process);
    eventually("the cgroup is empty", PATIENCE, || {
        (!ops.signal(vm(42), None).unwrap().1.running).then_some(())
    });
    eventually("its interface goes with it", PATIENCE, || {
        (ops.status().unwrap().attached == 0).then_some(())
    });
    assert!(ops.release(vm(42)).unwrap().0);
}

#[test]
fn what_does_not_belong_into_a_jail_is_refused() {
    let Some((_turn, sandbox)) = sandbox() else {
        return;
    };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--offer jails --first-uid 1900000000");
    let mut ops = connect(&netd);
    for number in [43, 44] {
        reserve(&mut ops, number);
    }
    let parts = Parts::new(&sandbox);
    let (_, foreign) = ops.attach(vm(44)).unwrap();
    let null = File::open("/dev/null").unwrap();
    let alone = UnixDatagram::unbound().unwrap();
    let good = parts.descriptors();
    let with = |place: usize, other| {
        let mut descriptors = good.clone();
        descriptors[place] = other;
        descriptors
    };
    for (descriptors, why) in [
        (
            with(0, null.as_fd()),
            "that came is no regular file, no socket and no tap",
        ),
        (
            with(2, good[0]),
            "the log that came is not open for writing",
        ),
        (with(3, good[0]), "no socket"),
        (with(4, alone.as_fd()), "not connected"),
        (
            with(6, good[0]),
            "a disk that came is not open for reading and writing",
        ),
    ] {
        let refused = ops.launch(vm(43), machine(), &descriptors).unwrap_err();
        assert_eq!(refused.code(), Some(Code::Invalid), "{refused}");
        assert!(refused.to_string().contains(why), "{refused} without {why}");
    }
    let networked = || Machine {
        network: true,
        ..machine()
    };
    for (tap, why) in [(foreign.as_fd(), "another VM's"), (null.as_fd(), "no tap")] {
        let mut descriptors = good.clone();
        descriptors.insert(6, tap);
        let refused = ops.launch(vm(43), networked(), &descriptors).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused} without {why}");
    }
    // Fewer or more than it says ends the connection.
    for descriptors in [&good[1..], &[&good[..], &good[..1]].concat()] {
        let refused = connect(&netd)
            .launch(vm(43), machine(), descriptors)
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("descriptors came, but `launch` has 7"),
            "{refused}"
        );
    }
    assert!(!ops.signal(vm(43), None).unwrap().1.running);
    netd.kill();
    // A program that root did not install.
    let program = sandbox.path("qemu");
    fs::copy("/usr/bin/qemu-system-x86_64", &program).unwrap();
    sandbox.sh(&format!("chmod 775 {}", program.display())).ok();
    let netd = Netd::start(
        &sandbox,
        &netns,
        &format!("--offer jails --qemu {}", program.display()),
    );
    let refused = connect(&netd).launch(vm(43), machine(), &good).unwrap_err();
    assert!(
        refused.to_string().contains("belongs to others"),
        "{refused}"
    );
}

#[test]
fn each_step_into_a_jail_fails_once() {
    let Some((_turn, sandbox)) = sandbox() else {
        return;
    };
    let netns = Netns::new(&sandbox);
    let parts = Parts::new(&sandbox);
    let child = |points: &str| {
        let mut command = Netd::child(&sandbox, &netns, "netd");
        command.env(banger_failpoint::VARIABLE, points);
        Client::child(command).unwrap()
    };
    reserve(&mut child(""), 45);
    for point in ["netd.jail.cgroup", "netd.jail.spawn", "netd.jail.entered"] {
        let mut client = child(&format!("{point}#1=error"));
        assert_eq!(
            code(client.launch(vm(45), machine(), &parts.descriptors())),
            Some(Code::Failed),
            "{point}"
        );
        assert!(!client.signal(vm(45), None).unwrap().1.running, "{point}");
        let cgroups = sandbox.sh(&format!(
            "find /sys/fs/cgroup -name 'banger-jail-{}.scope'",
            vm(45)
        ));
        assert_eq!(cgroups.ok(), "", "{point}");
    }
    // A signal that cannot be sent leaves the jail, and the reservation, as they were.
    let (_, process) = child("")
        .launch(vm(45), machine(), &parts.descriptors())
        .unwrap();
    let mut client = child("netd.jail.signal#1=error");
    assert_eq!(code(client.release(vm(45))), Some(Code::Failed));
    assert!(client.signal(vm(45), None).unwrap().1.running);
    // The next one waits for its end.
    drop(client);
    assert!(child("").release(vm(45)).unwrap().0);
    ends(&process);
}

/// The daemon where cgroups are of one version, whatever the host has.
fn with_cgroups(sandbox: &Sandbox, netns: &Netns, version: u8, arguments: &str) -> Netd {
    let mount = match version {
        1 => "mount -t cgroup -o none,name=systemd cgroup",
        _ => "mount -t cgroup2 cgroup2",
    };
    let script = format!(
        "exec unshare --mount sh -c 'umount --recursive --lazy /sys/fs/cgroup && mount -t tmpfs tmpfs /sys/fs/cgroup && mkdir /sys/fs/cgroup/all && \
         {mount} /sys/fs/cgroup/all && \"$@\"' sh"
    );
    Netd::start_at(sandbox, netns, &sandbox.netd_socket(), &script, arguments)
}

/// The cgroup of a VM's jail, as that daemon sees it.
fn cgroup(netd: &Netd, number: u32) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/root/sys/fs/cgroup/all/banger.slice/banger-jail-{}.scope",
        netd.running().pid(),
        vm(number)
    ))
}

fn processes(cgroup: &std::path::Path) -> usize {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn a_name_is_used_again_at_once_in_cgroups_of_either_version() {
    let Some((_turn, sandbox)) = sandbox() else {
        return;
    };
    let netns = Netns::new(&sandbox);
    for version in [1, 2] {
        let netd = with_cgroups(&sandbox, &netns, version, "--offer jails");
        let mut ops = connect(&netd);
        let cgroup = cgroup(&netd, 46);
        reserve(&mut ops, 46);
        for _ in 0..4 {
            let parts = Parts::new(&sandbox);
            let launched = ops.launch(vm(46), machine(), &parts.descriptors());
            let (_, process) = launched.expect("the name is free");
            assert_eq!(processes(&cgroup), 1, "version {version}");
            assert!(ops.list().unwrap()[0].jailed);
            assert!(ops.signal(vm(46), Some(Signal::Kill)).unwrap().0);
            ends(&process);
        }
        let parts = Parts::new(&sandbox);
        let launched = ops.launch(vm(46), machine(), &parts.descriptors());
        let (_, process) = launched.expect("the name is free");
        assert!(ops.release(vm(46)).unwrap().0);
        ends(&process);
        assert!(!cgroup.exists(), "version {version}");
        netd.kill();
    }
}

#[test]
fn a_launch_that_takes_long_keeps_nobody_waiting() {
    let Some((_turn, sandbox)) = sandbox() else {
        return;
    };
    let netns = Netns::new(&sandbox);
    let netd = with_cgroups(&sandbox, &netns, 2, "--offer jails");
    let mut ops = connect(&netd);
    reserve(&mut ops, 47);
    // Whoever enters it stands still.
    let cgroup = cgroup(&netd, 47);
    fs::create_dir_all(&cgroup).unwrap();
    fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
    let parts = Parts::new(&sandbox);
    let (netd, parts) = (&netd, &parts);
    thread::scope(|scope| {
        let launching =
            scope.spawn(|| connect(netd).launch(vm(47), machine(), &parts.descriptors()));
        eventually("it is on its way", PATIENCE, || {
            (processes(&cgroup) == 1).then_some(())
        });
        // Others are served meanwhile, and it cannot be started twice.
        reserve(&mut ops, 48);
        let twice = scope.spawn(|| connect(netd).launch(vm(47), machine(), &parts.descriptors()));
        let releasing = scope.spawn(|| connect(netd).release(vm(47)));
        assert_eq!(ops.list().unwrap().len(), 2);
        fs::write(cgroup.join("cgroup.freeze"), "0").unwrap();
        let (_, process) = launching.join().unwrap().expect("all is well");
        // Before it was given back, or after.
        let refused = twice.join().unwrap().expect_err("it was started once");
        let codes = [Some(Code::Busy), Some(Code::NotFound)];
        assert!(codes.contains(&refused.code()), "{refused}");
        assert!(releasing.join().unwrap().expect("it is allowed").0);
        ends(&process);
    });
    assert_eq!(ops.list().unwrap().len(), 1);
    assert!(!cgroup.exists());
}

#[test]
fn what_nobody_reserved_is_named_and_goes() {
    if skipped("vm") || skipped("root") {
        return;
    }
    let _alone = JAILS.write().unwrap_or_else(PoisonError::into_inner);
    let sandbox = Sandbox::for_guests();
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--offer jails --offer disks");
    let mut ops = connect(&netd);
    reserve(&mut ops, 49);
    let (reservation, tap) = ops.attach(vm(49)).unwrap();
    let parts = Parts::new(&sandbox);
    let device = ops.loop_device(vm(49), &parts.disks[0], true).unwrap();
    let launched = ops.launch(vm(49), machine(), &parts.descriptors());
    let (_, process) = launched.unwrap();
    let listed = ops.list().unwrap().remove(0);
    assert_eq!((listed.jailed, listed.devices), (true, 1));
    assert!(ops.status().unwrap().leftovers.is_empty());
    let row = sandbox.sh("banger-net list --format table");
    assert!(row.ok().contains("jailed"), "{row}");
    // A journal that is lost, as with a disk that is put back.
    netd.kill();
    fs::remove_file(sandbox.path("netd/journal")).unwrap();
    let netd = Netd::start(&sandbox, &netns, "--offer jails --offer disks");
    let mut ops = connect(&netd);
    let left = [
        format!("interface {}", reservation.interface),
        format!("block devices of {}", vm(49)),
        format!("jail of {}", vm(49)),
    ];
    assert_eq!(ops.status().unwrap().leftovers, left);
    let doctor = sandbox.sh("banger-net doctor");
    let named = doctor.exits(1).stdout.lines().any(|line| {
        line.contains("\"leftovers\"") && left.iter().all(|what| line.contains(what.as_str()))
    });
    assert!(named, "{doctor}");
    sandbox.sh("banger-net gc").ok();
    ends(&process);
    drop((tap, device));
    eventually("nothing is left", PATIENCE, || {
        ops.status().unwrap().leftovers.is_empty().then_some(())
    });
}
