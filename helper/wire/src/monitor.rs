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
    /// VM directory: when the bytes of the console came, as [`super::console_time`] reads it.
    pub const CONSOLE_TIMES: &str = "console.times";
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
    /// What the one for a share's server begins with.
    pub const SHARE: &str = "{share-";
    /// In the arguments of a share's server: the listening socket.
    pub const SOCKET: &str = "{socket}";
    /// In the arguments of a share's server: where it finds the directory.
    pub const DIRECTORY: &str = "{directory}";

    /// Stream socket to the server of a share, by its place in [`super::Launch::shares`].
    pub fn share(index: usize) -> String {
        format!("{SHARE}{index}}}")
    }
}

/// A process that serves a directory of the host to the VMM by vhost-user. The monitor starts it in
/// namespaces of its own, where the directory is mounted as it may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareServer {
    /// The directory; no part of its path may be a link.
    pub source: PathBuf,
    /// The mount refuses writes, whatever the server does.
    pub read_only: bool,
    /// Absolute path of the server.
    pub program: PathBuf,
    /// Its arguments, with [`placeholder::SOCKET`] and [`placeholder::DIRECTORY`].
    pub arguments: Vec<String>,
}

/// The form of [`file::CONSOLE_TIMES`]: pairs of little-endian `u64`, milliseconds since 1970 and the number of
/// bytes that the console had said before. Where the time is 0, the log has been cut, and now begins there.
pub mod console_time {
    /// Bytes of a pair.
    pub const LENGTH: usize = 16;

    /// Since then the log goes on there, or it begins there when the time is 0.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mark {
        /// Milliseconds since 1970.
        pub time_ms: u64,
        /// In bytes, since the VM's start.
        pub position: u64,
    }

    impl Mark {
        /// As it is in the file.
        pub fn to_bytes(self) -> [u8; LENGTH] {
            let mut bytes = [0; LENGTH];
            bytes[..8].copy_from_slice(&self.time_ms.to_le_bytes());
            bytes[8..].copy_from_slice(&self.position.to_le_bytes());
            bytes
        }
    }

    /// Where the log begins, and the marks; half a pair at the end is left out.
    pub fn parse(bytes: &[u8]) -> (u64, Vec<Mark>) {
        let number = |bytes: &[u8]| {
            let bytes = bytes.try_into();
            bytes.map_or(0, u64::from_le_bytes)
        };
        let marks = bytes.chunks_exact(LENGTH).map(|pair| Mark {
            time_ms: number(&pair[..8]),
            position: number(&pair[8..]),
        });
        let (cuts, marks): (Vec<Mark>, Vec<Mark>) = marks.partition(|mark| mark.time_ms == 0);
        (cuts.last().map_or(0, |cut| cut.position), marks)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn marks_are_read_as_they_were_written() {
            let mark = |time_ms, position| Mark { time_ms, position };
            let all = [mark(5, 0), mark(0, 100), mark(7, 150), mark(0, 200)];
            let mut bytes: Vec<u8> = all.iter().flat_map(|mark| mark.to_bytes()).collect();
            bytes.push(1);
            assert_eq!(parse(&bytes), (200, vec![all[0], all[2]]));
            assert_eq!(parse(&[]), (0, Vec::new()));
        }
    }
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
    /// Directories of the host that the VMM does not serve itself.
    #[serde(default)]
    pub shares: Vec<ShareServer>,
    /// A guest that was ready and reboots is started again; else its reboot is the VM's end.
    #[serde(default)]
    pub reboot: bool,
    /// Cgroups of the VM's own, which the monitor is in; it leaves and removes them in the end.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// What must differ between two boots.
    #[serde(default)]
    pub seed: Option<Seed>,
}

/// Where a boot's configuration has the random bytes for the guest, in hexadecimal; fresh ones are written
/// there before the guest boots again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// The initramfs.
    pub file: PathBuf,
    /// In bytes from its beginning.
    pub offset: u64,
    /// In bytes.
    pub length: usize,
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
    /// Makes a disk larger, and the guest's file system on it; answers [`ControlReply::Done`] when both are.
    GrowDisk {
        /// The VMM's name for it.
        disk: String,
        /// Its size, in bytes.
        bytes: u64,
    },
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
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest reset itself, and was not started again.
    GuestReboot,
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
            ExitReason::GuestReboot => "guest-reboot",
            ExitReason::VmmFailed => "vmm-failed",
        }
    }
}
