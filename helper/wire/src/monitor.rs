//! The monitor's launch specification, control protocol and exit record.
//!
//! `banger-monitor` reads one JSON [`Launch`] on standard input, answers one line of JSON
//! [`LaunchReply`] on standard output, closes both, and serves [`ControlRequest`] lines on its
//! control socket until the VMM is gone. Then it writes [`ExitRecord`] and ends.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Names in the VM's directory and its runtime directory.
pub mod file {
    /// Runtime directory: `CONNECT <port>` handshake, then the stream's bytes.
    pub const AGENT_SOCKET: &str = "agent.sock";
    /// Runtime directory: one JSON request a line, one JSON reply a line.
    pub const CONTROL_SOCKET: &str = "control.sock";
    /// VM directory: open file description lock held by the monitor and the VMM.
    pub const ALIVE_LOCK: &str = "alive.lock";
    /// VM directory: the guest's serial console.
    pub const CONSOLE_LOG: &str = "console.log";
    /// VM directory: what the VMM printed on its standard error.
    pub const VMM_LOG: &str = "vmm.log";
    /// VM directory: JSON [`super::Handles`].
    pub const HANDLES: &str = "handles.json";
    /// VM directory: JSON [`super::ExitRecord`].
    pub const EXIT_RECORD: &str = "exit.json";
    /// VM directory: one JSON [`super::Sample`] a line, the newest ones.
    pub const STATISTICS: &str = "stats.log";
}

/// Descriptors that the monitor makes and the VMM inherits; in an argument `{agent}` and so on is
/// replaced by the descriptor's number.
pub mod placeholder {
    /// Stream socket to the virtio-serial port with the mux.
    pub const AGENT: &str = "{agent}";
    /// Stream socket with QEMU's QMP.
    pub const QMP: &str = "{qmp}";
    /// Stream socket with the guest's serial console.
    pub const CONSOLE: &str = "{console}";
}

/// What to run and where to keep its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The VM's id.
    pub vm: String,
    /// The VM's directory (disks, logs, locks).
    pub directory: PathBuf,
    /// The VM's runtime directory (sockets); exists, mode 0700.
    pub runtime: PathBuf,
    /// Absolute path of the VMM.
    pub program: PathBuf,
    /// Its arguments, with [`placeholder`]s.
    pub arguments: Vec<String>,
    /// The console log is cut to its newer half when it exceeds this many bytes.
    pub console_limit: u64,
    /// Stop the VM when nobody has used it for this many seconds.
    #[serde(default)]
    pub idle_stop_s: Option<u64>,
    /// The VM's name, for the journal.
    #[serde(default)]
    pub name: String,
    /// The journal of the store; none is kept without one.
    #[serde(default)]
    pub journal: Option<PathBuf>,
    /// Ports to publish from the beginning.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Seconds between two samples in [`file::STATISTICS`]; none are taken without.
    #[serde(default)]
    pub statistics_s: Option<u64>,
    /// Inherited descriptors that are the VMM's, by number; the monitor keeps no copy of them.
    #[serde(default)]
    pub descriptors: Vec<i32>,
}

/// A TCP port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Address of the host.
    pub address: std::net::IpAddr,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the guest.
    pub guest_port: u16,
}

/// What a monitor measured once a minute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// What the guest said; untrusted.
    pub guest: crate::agent::Stats,
    /// Processor time of the VMM, in milliseconds.
    #[serde(default)]
    pub vmm_cpu_ms: Option<u64>,
    /// Resident memory of the VMM, in bytes.
    #[serde(default)]
    pub vmm_rss: Option<u64>,
}

/// First and only line of the monitor's standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "launch", rename_all = "kebab-case")]
pub enum LaunchReply {
    /// The VMM was executed; sockets are bound, `handles.json` is written.
    Started(Handles),
    /// The VM lives already: the lock is held.
    AlreadyRunning,
    /// A port that is to be published is taken; nothing runs.
    PortInUse {
        /// Which.
        address: std::net::SocketAddr,
    },
    /// Nothing runs; nothing was left.
    Failed {
        /// What failed, and why.
        message: String,
    },
}

/// Process ids of a running VM; a cache that can be rebuilt from the OS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handles {
    /// The VM's id.
    pub vm: String,
    /// Process id of the monitor.
    pub monitor_pid: u32,
    /// Process id of the VMM.
    pub vmm_pid: u32,
    /// `/proc/sys/kernel/random/boot_id` of the host.
    pub boot_id: String,
    /// Launch time, milliseconds since 1970.
    pub started_ms: u64,
    /// Where its sockets are; another environment may look for them elsewhere.
    #[serde(default)]
    pub runtime: Option<PathBuf>,
}

/// One line on the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum ControlRequest {
    /// Answers [`ControlReply::Status`] at once.
    Status,
    /// Answers when the guest is ready, has failed, or is gone.
    WaitReady,
    /// Answers [`ControlReply::Exited`] when the VMM is gone.
    WaitExit,
    /// Guest shutdown, then VMM quit, then SIGKILL; answers [`ControlReply::Exited`].
    Stop {
        /// How long the guest has, in milliseconds.
        grace_ms: u64,
    },
    /// SIGKILL at once; answers [`ControlReply::Exited`].
    Kill,
    /// From now on the VM lives only as long as this connection: when it closes, however the client
    /// ended, the VMM is killed. Answers [`ControlReply::Status`].
    Tether,
    /// Undoes [`ControlRequest::Tether`] of this connection. Answers [`ControlReply::Done`].
    Untether,
    /// Listens on a port of the host from now on. Answers [`ControlReply::Done`], also when it does so
    /// already, or [`ControlReply::PortInUse`].
    Publish(Publish),
    /// Listens there no more; connections go on. Answers [`ControlReply::Done`].
    Unpublish(Publish),
    /// Stops the guest's processors; answers [`ControlReply::Done`] when the VMM was asked.
    Pause,
    /// Lets them go on, and tells the guest what time it is.
    Resume,
}

/// Answers on the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum ControlReply {
    /// The state now.
    Status {
        /// Boot phase.
        phase: Phase,
        /// Streams open through the mux.
        streams: u32,
    },
    /// The guest serves calls.
    Ready {
        /// From the VMM's start to readiness, in milliseconds.
        boot_ms: u64,
        /// The agent's version.
        agent: String,
    },
    /// The guest said that its boot failed.
    GuestFailed {
        /// In the guest's words; untrusted.
        message: String,
    },
    /// The VMM is gone.
    Exited(ExitRecord),
    /// It was done.
    Done,
    /// The port is taken.
    PortInUse {
        /// Which.
        address: std::net::SocketAddr,
    },
    /// The request was not understood, or could not be done.
    Error {
        /// Why.
        message: String,
    },
}

/// Phase of a VM whose monitor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The VMM runs, the agent is not ready.
    Booting,
    /// The agent serves calls.
    Ready,
    /// A stop was asked for.
    Stopping,
}

/// How the VMM ended; written to `exit.json`, durable before the monitor ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Why.
    pub reason: ExitReason,
    /// Exit status of the VMM, when it ended by itself.
    pub code: Option<i32>,
    /// Signal that killed the VMM.
    pub signal: Option<i32>,
    /// The guest's own message, when its boot failed; untrusted.
    pub guest_message: Option<String>,
    /// The guest had been ready.
    pub was_ready: bool,
    /// Time of the end, milliseconds since 1970.
    pub ended_ms: u64,
}

/// Why a VMM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The guest powered itself off.
    GuestPowerOff,
    /// A stop was asked for, and the guest shut down in time.
    Stopped,
    /// A stop was asked for, and the guest had to be killed.
    Killed,
    /// The guest's kernel panicked or reset.
    GuestPanic,
    /// The VMM ended with an error.
    VmmFailed,
}

impl ExitReason {
    /// The reason in one word, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ExitReason::GuestPowerOff => "guest-power-off",
            ExitReason::Stopped => "stopped",
            ExitReason::Killed => "killed",
            ExitReason::GuestPanic => "guest-panic",
            ExitReason::VmmFailed => "vmm-failed",
        }
    }
}
