//! One VM in a directory of its own, and what a client does with it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use banger_wire::monitor::{
    ControlReply, ControlRequest, ExitRecord, Handles, Launch, LaunchReply, file,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) const MONITOR: &str = env!("CARGO_BIN_EXE_banger-monitor");
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A directory with a VM in it. Dropping it kills the monitor; the VMM dies with it.
pub(crate) struct Rig {
    pub(crate) temporary: TempDir,
    pub(crate) launch: Launch,
    pub(crate) monitor: Option<Child>,
}

impl Rig {
    /// With the simulated VMM in this mode and all channels.
    pub(crate) fn fake(mode: &str) -> Rig {
        let program = std::env::current_exe().unwrap();
        let mode = format!("mode={mode}");
        Rig::new(
            &program,
            &[
                "fake_vmm",
                "--exact",
                "--nocapture",
                "agent={agent}",
                "qmp={qmp}",
                "console={console}",
                &mode,
            ],
        )
    }

    pub(crate) fn new(program: &Path, arguments: &[&str]) -> Rig {
        let temporary = tempfile::tempdir().unwrap();
        let (directory, runtime) = (temporary.path().join("vm"), temporary.path().join("run"));
        for path in [&directory, &runtime] {
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let launch = Launch {
            vm: "vm-1".into(),
            directory,
            runtime,
            program: program.to_owned(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            console_limit: 1 << 20,
            idle_stop_s: None,
            name: "vm".into(),
            journal: None,
            publish: Vec::new(),
            statistics_s: None,
            descriptors: Vec::new(),
            shares: Vec::new(),
            reboot: false,
            cgroups: Vec::new(),
            seed: None,
        };
        Rig {
            temporary,
            launch,
            monitor: None,
        }
    }

    /// Starts the VM, which must work.
    pub(crate) fn start(mut self) -> Rig {
        let (monitor, reply) = run(&self.launch);
        self.monitor = Some(monitor);
        assert_eq!(reply, LaunchReply::Started(self.handles()));
        self
    }

    /// Starts the VM and waits until the guest is ready.
    pub(crate) fn ready(mode: &str) -> Rig {
        let rig = Rig::fake(mode).start();
        let reply = rig.control(&ControlRequest::WaitReady);
        assert!(matches!(reply, ControlReply::Ready { .. }), "{reply:?}");
        rig
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.launch.directory.join(name)
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.launch.runtime.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap()).into_owned()
    }

    pub(crate) fn handles(&self) -> Handles {
        serde_json::from_str(&self.text(file::HANDLES)).unwrap()
    }

    pub(crate) fn exit_record(&self) -> ExitRecord {
        serde_json::from_str(&self.text(file::EXIT_RECORD)).unwrap()
    }

    pub(crate) fn open_control(&self) -> Control {
        let socket = UnixStream::connect(self.socket(file::CONTROL_SOCKET)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Control(BufReader::new(socket))
    }

    pub(crate) fn control(&self, request: &ControlRequest) -> ControlReply {
        let mut control = self.open_control();
        control.send(request);
        control.reply()
    }

    /// The record that a control reply carries, which must be the durable one.
    pub(crate) fn exited(&self, request: &ControlRequest) -> ExitRecord {
        let reply = self.control(request);
        let ControlReply::Exited(record) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(record, self.exit_record());
        record
    }

    /// A connection to the agent's socket that has said nothing.
    pub(crate) fn dial(&self) -> UnixStream {
        let socket = UnixStream::connect(self.socket(file::AGENT_SOCKET)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        socket
    }

    /// A connection to a port of the guest.
    pub(crate) fn connect(&self, port: u32) -> UnixStream {
        let mut socket = self.dial();
        writeln!(socket, "CONNECT {port}").unwrap();
        let line = read_line(&mut socket);
        assert!(line.starts_with("OK "), "{line:?}");
        socket
    }

    /// Tells the simulated guest what to do.
    pub(crate) fn command(&self, line: &str) -> UnixStream {
        let mut socket = self.connect(crate::fake::COMMANDS);
        writeln!(socket, "{line}").unwrap();
        socket
    }

    /// Waits until the monitor has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        // The child stays with the rig, which kills it when this takes too long.
        let pid = Pid::from_raw(self.monitor.as_ref().unwrap().id() as i32);
        within_limit(move || waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT))
            .unwrap();
        self.monitor.take().unwrap().wait().unwrap()
    }

    /// Waits until the monitor has another VMM than `first`.
    pub(crate) fn wait_for_another_vmm(&self, first: u32) -> u32 {
        let begun = Instant::now();
        while self.handles().vmm_pid == first {
            assert!(begun.elapsed() < LIMIT, "it takes too long");
            // Each question waits for the monitor's next turn.
            self.control(&ControlRequest::Status);
        }
        self.handles().vmm_pid
    }

    /// Everything that says that the VM runs is gone.
    pub(crate) fn assert_cleared(&self) {
        for path in [
            self.socket(file::AGENT_SOCKET),
            self.socket(file::CONTROL_SOCKET),
            self.path(file::HANDLES),
        ] {
            assert!(!path.exists(), "{}", path.display());
        }
        assert!(!self.is_locked());
    }

    pub(crate) fn is_locked(&self) -> bool {
        lock_is_held(&self.path(file::ALIVE_LOCK))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            let _ = monitor.kill();
            let _ = monitor.wait();
        }
        if std::thread::panicking() {
            let log = fs::read(self.path(file::VMM_LOG)).unwrap_or_default();
            eprintln!("vmm.log:\n{}", String::from_utf8_lossy(&log));
        }
    }
}

pub(crate) struct Control(pub(crate) BufReader<UnixStream>);

impl Control {
    pub(crate) fn send(&mut self, request: &ControlRequest) {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.0.get_mut().write_all(&line).unwrap();
    }

    pub(crate) fn reply(&mut self) -> ControlReply {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

/// Runs the monitor up to its reply.
pub(crate) fn run(launch: &Launch) -> (Child, LaunchReply) {
    let mut monitor = Command::new(MONITOR)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(launch).unwrap();
    monitor.stdin.take().unwrap().write_all(&text).unwrap();
    // To the end: the monitor closes it, whoever lives on.
    let mut reply = String::new();
    let mut stdout = monitor.stdout.take().unwrap();
    stdout.read_to_string(&mut reply).unwrap();
    let reply = serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
    (monitor, reply)
}

/// A line, or what there is of it when the other side closes.
pub(crate) fn read_line(socket: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") && socket.read_exact(&mut byte).is_ok() {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

pub(crate) fn read_all(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Waits for the next byte; true when there is none, because the other side has closed.
pub(crate) fn at_end(socket: &mut impl Read) -> bool {
    let read = socket.read_exact(&mut [0]);
    read.is_err_and(|error| {
        let timeout = error.kind() == ErrorKind::WouldBlock;
        assert!(!timeout, "it takes too long");
        true
    })
}

/// Does something that blocks, with a deadline.
pub(crate) fn within_limit<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(LIMIT).expect("it takes too long")
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

pub(crate) fn lock_is_held(path: &Path) -> bool {
    let file = fs::File::open(path).unwrap();
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type != libc::F_UNLCK as libc::c_short
}

/// Waits until nobody holds the lock.
pub(crate) fn wait_unlocked(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    within_limit(move || {
        fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole_file())).unwrap();
    });
}
