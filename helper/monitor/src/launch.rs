//! From a launch specification to a running VMM: validate all, lock, act, undo on error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use banger_failpoint::{passed, point};
use banger_wire::monitor::{Handles, Launch, Publish, Seed, placeholder};
use nix::unistd::geteuid;

use crate::console::Kept;
use crate::exec::{self, SpawnError};
use crate::files::{self, FileError, Paths};
use crate::lock::{AliveLock, set_inheritable};
use crate::log::{Log, chain};
use crate::process;
use crate::publish;
use crate::share::{self, Servers, ShareError};

/// A VM that was just started.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) launch: Launch,
    pub(crate) paths: Paths,
    pub(crate) lock: AliveLock,
    pub(crate) log: Log,
    pub(crate) child: Child,
    pub(crate) handles: Handles,
    pub(crate) started: Instant,
    pub(crate) idle_stop: Option<Duration>,
    pub(crate) name: String,
    pub(crate) journal: Option<PathBuf>,
    pub(crate) statistics: Option<Duration>,
    pub(crate) ports: Vec<(Publish, TcpListener)>,
    pub(crate) control: UnixListener,
    /// `agent.sock` and the channel to the guest.
    pub(crate) agent: Option<(UnixListener, UnixStream)>,
    pub(crate) qmp: Option<UnixStream>,
    pub(crate) console: Option<(Kept, UnixStream)>,
    pub(crate) shares: Servers,
}

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("the VM runs already")]
    AlreadyRunning,
    #[error("the port {0} is taken")]
    PortInUse(SocketAddr),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot read the launch specification")]
    ReadSpecification(#[source] io::Error),
    #[error("the launch specification is not understood")]
    Specification(#[source] serde_json::Error),
    #[error("the monitor cannot set itself up")]
    Isolate(#[source] io::Error),
    #[error("{what} must be an absolute path, not {path:?}")]
    Relative { what: &'static str, path: String },
    #[error("the runtime directory {path} must be a directory of the user's own with mode 0700")]
    UnsafeRuntime { path: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot make the VMM's channels")]
    Channels(#[source] io::Error),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(transparent)]
    Share(#[from] ShareError),
}

/// Our ends of what connects a VMM with its monitor.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) agent: Option<UnixStream>,
    pub(crate) qmp: Option<UnixStream>,
    pub(crate) console: Option<UnixStream>,
}

/// Starts a VM. Until the lock is taken nothing is touched; on error nothing runs or is left.
pub(crate) fn launch(launch: Launch) -> Result<Vm, LaunchError> {
    validate(&launch)?;
    let paths = Paths::new(&launch);
    let lock = AliveLock::take(&paths.alive_lock)
        .map_err(FileError::new("lock", &paths.alive_lock))?
        .ok_or(LaunchError::AlreadyRunning)?;
    let started = Parts::prepare(&launch, &paths).and_then(|mut parts| {
        let vmm = start(&launch, &paths, &lock, &mut parts.log, &mut parts.pairs)?;
        Ok((parts, vmm))
    });
    match started {
        Ok((parts, vmm)) => {
            let mut vm = Vm {
                paths,
                lock,
                log: parts.log,
                child: vmm.child,
                handles: vmm.handles,
                started: vmm.started,
                idle_stop: launch.idle_stop_s.map(Duration::from_secs),
                name: launch.name.clone(),
                journal: launch.journal.clone(),
                statistics: launch.statistics_s.map(Duration::from_secs),
                ports: parts.ports,
                control: parts.control,
                agent: parts
                    .agent_listener
                    .zip(parts.pairs.agent.map(|pair| pair.ours)),
                qmp: parts.pairs.qmp.map(|pair| pair.ours),
                console: parts
                    .pairs
                    .console
                    .map(|pair| (parts.console_log, pair.ours)),
                shares: vmm.shares,
                launch,
            };
            if !vm.launch.reboot {
                vm.let_go();
            }
            Ok(vm)
        }
        Err(error) => {
            // The client hears of the cause; what could not be undone would only hide it.
            let _ = paths.remove_launch();
            Err(error)
        }
    }
}

fn validate(launch: &Launch) -> Result<(), LaunchError> {
    for (what, path) in [
        ("the VM's directory", &launch.directory),
        ("the runtime directory", &launch.runtime),
        ("the VMM's program", &launch.program),
    ] {
        if !path.is_absolute() {
            let path = path.display().to_string();
            return Err(LaunchError::Relative { what, path });
        }
    }
    let runtime =
        fs::symlink_metadata(&launch.runtime).map_err(FileError::new("use", &launch.runtime))?;
    if !runtime.is_dir() || runtime.mode() & 0o077 != 0 || runtime.uid() != geteuid().as_raw() {
        let path = launch.runtime.display().to_string();
        return Err(LaunchError::UnsafeRuntime { path });
    }
    Ok(())
}

/// A socket pair between the monitor and the VMM.
struct Pair {
    ours: UnixStream,
    theirs: Option<UnixStream>,
}

impl Pair {
    /// Made only when an argument asks for it.
    fn wanted(launch: &Launch, placeholder: &str) -> Result<Option<Pair>, LaunchError> {
        if !launch.arguments.iter().any(|a| a.contains(placeholder)) {
            return Ok(None);
        }
        let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Channels)?;
        ours.set_nonblocking(true).map_err(LaunchError::Channels)?;
        set_inheritable(&theirs, true).map_err(LaunchError::Channels)?;
        let theirs = Some(theirs);
        Ok(Some(Pair { ours, theirs }))
    }
}

/// What connects a VMM with its monitor.
struct Pairs {
    agent: Option<Pair>,
    qmp: Option<Pair>,
    console: Option<Pair>,
}

impl Pairs {
    fn make(launch: &Launch) -> Result<Pairs, LaunchError> {
        Ok(Pairs {
            agent: Pair::wanted(launch, placeholder::AGENT)?,
            qmp: Pair::wanted(launch, placeholder::QMP)?,
            console: Pair::wanted(launch, placeholder::CONSOLE)?,
        })
    }

    /// The VMM has its ends, and only the VMM.
    fn hand_over(&mut self) {
        let pairs = [&mut self.agent, &mut self.qmp, &mut self.console];
        for pair in pairs.into_iter().flatten() {
            pair.theirs = None;
        }
    }

    /// The VMM's arguments, with the numbers of its ends.
    fn arguments(&self, launch: &Launch, shares: &[UnixStream]) -> Vec<String> {
        let channels = [
            (placeholder::AGENT, &self.agent),
            (placeholder::QMP, &self.qmp),
            (placeholder::CONSOLE, &self.console),
        ];
        let channels = channels.into_iter().filter_map(|(placeholder, pair)| {
            let theirs = pair.as_ref()?.theirs.as_ref()?;
            Some((placeholder.to_owned(), theirs))
        });
        let shares = shares.iter().enumerate();
        let shares = shares.map(|(index, socket)| (placeholder::share(index), socket));
        let mut arguments = launch.arguments.clone();
        for (placeholder, socket) in channels.chain(shares) {
            let number = socket.as_raw_fd().to_string();
            for argument in &mut arguments {
                *argument = argument.replace(&placeholder, &number);
            }
        }
        arguments
    }
}

/// What outlives a VMM whose guest reboots.
struct Parts {
    log: Log,
    console_log: Kept,
    control: UnixListener,
    agent_listener: Option<UnixListener>,
    ports: Vec<(Publish, TcpListener)>,
    pairs: Pairs,
}

impl Parts {
    fn prepare(launch: &Launch, paths: &Paths) -> Result<Parts, LaunchError> {
        // The last run's record would be read as this one's if this one were killed.
        files::remove(&paths.exit_record)?;
        if let Some(error) = paths.remove_runtime().into_iter().next() {
            return Err(error.into());
        }
        let log = Log::create(&paths.vmm_log).map_err(FileError::new("create", &paths.vmm_log))?;
        let (console_log, times) = (&paths.console_log, &paths.console_times);
        let console_log = Kept::create(console_log, times, launch.console_limit)
            .map_err(FileError::new("create", console_log))?;
        let ports = launch.publish.iter();
        let ports = ports.map(|port| Ok((*port, publish::bind(*port)?)));
        let ports = ports.collect::<Result<Vec<_>, LaunchError>>()?;
        let control = listen(&paths.control_socket)?;
        let pairs = Pairs::make(launch)?;
        // Without a channel of ours, agent.sock is the VMM's to bind (Firecracker's vsock).
        let agent_listener = match pairs.agent {
            Some(_) => Some(listen(&paths.agent_socket)?),
            None => None,
        };
        Ok(Parts {
            log,
            console_log,
            control,
            agent_listener,
            ports,
            pairs,
        })
    }
}

/// A VMM that was just started.
struct Vmm {
    child: Child,
    handles: Handles,
    started: Instant,
    shares: Servers,
}

/// Starts a VMM and what serves it.
fn start(
    launch: &Launch,
    paths: &Paths,
    lock: &AliveLock,
    log: &mut Log,
    pairs: &mut Pairs,
) -> Result<Vmm, LaunchError> {
    let (shares, share_sockets) = share::start(launch, log)?;
    for socket in &share_sockets {
        set_inheritable(socket, true).map_err(LaunchError::Channels)?;
    }
    let arguments = pairs.arguments(launch, &share_sockets);
    let boot_id = Path::new("/proc/sys/kernel/random/boot_id");
    let boot_id = fs::read_to_string(boot_id).map_err(FileError::new("read", boot_id))?;
    let started = Instant::now();
    lock.set_inheritable(true).map_err(LaunchError::Channels)?;
    point("monitor.spawn").map_err(LaunchError::Channels)?;
    let mut child = exec::spawn(exec::MODE, &[], &launch.program, &arguments, log)?;
    passed("monitor.spawned");
    drop(share_sockets);
    pairs.hand_over();
    let handles = Handles {
        vm: launch.vm.clone(),
        monitor_pid: std::process::id(),
        vmm_pid: child.id(),
        boot_id: boot_id.trim().to_owned(),
        started_ms: now_ms(),
        runtime: Some(launch.runtime.clone()),
    };
    let settled = lock
        .set_inheritable(false)
        .map_err(LaunchError::Channels)
        .and_then(|()| write_handles(&paths.handles, &handles));
    match settled {
        Ok(()) => Ok(Vmm {
            child,
            handles,
            started,
            shares,
        }),
        Err(error) => {
            for undone in [child.kill(), child.wait().map(drop)] {
                if let Err(error) = undone {
                    log.line(format_args!("undoing the launch: {}", chain(&error)));
                }
            }
            Err(error)
        }
    }
}

/// Random bytes of this boot, over those of the last.
fn reseed(seed: &Seed) -> io::Result<()> {
    let mut bytes = vec![0; seed.length / 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&seed.file)?;
    file.write_all_at(text.as_bytes(), seed.offset)
}

fn listen(path: &Path) -> Result<UnixListener, LaunchError> {
    let bound = point("monitor.bind").and_then(|()| UnixListener::bind(path));
    let bound = bound.and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    Ok(bound.map_err(FileError::new("bind", path))?)
}

fn write_handles(path: &Path, handles: &Handles) -> Result<(), LaunchError> {
    let text = serde_json::to_vec(handles).map_err(|error| LaunchError::Channels(error.into()))?;
    Ok(files::replace(path, &text)?)
}

impl Vm {
    /// Starts the VMM anew for a guest that reboots. The lock is ours all the time.
    pub(crate) fn relaunch(&mut self) -> Result<Channels, LaunchError> {
        if let Some(seed) = &self.launch.seed {
            reseed(seed).map_err(FileError::new("write", &seed.file))?;
        }
        // Their VMM is gone.
        self.shares = Servers::default();
        let mut pairs = Pairs::make(&self.launch)?;
        let log = &mut self.log;
        let vmm = start(&self.launch, &self.paths, &self.lock, log, &mut pairs)?;
        (self.child, self.handles) = (vmm.child, vmm.handles);
        (self.started, self.shares) = (vmm.started, vmm.shares);
        Ok(Channels {
            agent: pairs.agent.map(|pair| pair.ours),
            qmp: pairs.qmp.map(|pair| pair.ours),
            console: pairs.console.map(|pair| pair.ours),
        })
    }

    /// Closes what was inherited for the VMM.
    pub(crate) fn let_go(&mut self) {
        process::let_go(&self.launch.descriptors);
        // The numbers may be others' from now on.
        self.launch.descriptors.clear();
    }

    /// Writes into the store's journal. A journal that cannot be written is no reason to give up a VM.
    pub(crate) fn happened(&mut self, event: &str, detail: Option<&str>) {
        let Some(journal) = &self.journal else {
            return;
        };
        let line = banger_journal::Line::now(&self.handles.vm, &self.name, event, detail);
        if let Err(error) = banger_journal::append(journal, &line) {
            self.log
                .line(format_args!("the journal cannot be written: {error}"));
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}
