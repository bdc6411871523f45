//! The agent's protocol: one call per stream on [`crate::port::AGENT`], in [`crate::frame`] frames.
//!
//! The host sends one `CALL` frame, then for an exec any of `STDIN`, `STDIN_END`, `SIGNAL`,
//! `RESIZE`. The agent answers `REPLY` or `ERROR`, or for an exec `STARTED`, output, and `EXIT`.

use serde::{Deserialize, Serialize};

/// Kinds of frames. Host to guest below 64, guest to host from 64 up.
pub mod kind {
    /// JSON [`super::Call`]; the first frame of every stream.
    pub const CALL: u8 = 1;
    /// Bytes for the command's standard input, at most [`super::STDIN_WINDOW`] ahead of the credit.
    pub const STDIN: u8 = 2;
    /// The command's standard input is closed.
    pub const STDIN_END: u8 = 3;
    /// Signal number, one `u8`, for the command's process group.
    pub const SIGNAL: u8 = 4;
    /// JSON [`super::TerminalSize`].
    pub const RESIZE: u8 = 5;

    /// JSON reply of a call other than exec.
    pub const REPLY: u8 = 64;
    /// JSON [`super::CallError`]; the last frame.
    pub const ERROR: u8 = 65;
    /// JSON [`super::Started`].
    pub const STARTED: u8 = 66;
    /// Bytes of the command's standard output (or of its terminal).
    pub const STDOUT: u8 = 67;
    /// Bytes of the command's standard error.
    pub const STDERR: u8 = 68;
    /// JSON [`super::Exit`]; the last frame.
    pub const EXIT: u8 = 69;
    /// The command took this many bytes of standard input, one little-endian `u32`.
    pub const STDIN_CREDIT: u8 = 70;
}

/// Largest piece of standard input or output in one frame, in bytes.
pub const CHUNK: usize = 32 * 1024;
/// Bytes of standard input that may be sent and not yet credited. The agent holds them, so that a
/// signal behind them arrives even when the command does not read its input.
pub const STDIN_WINDOW: usize = 256 * 1024;

/// The first frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// [`crate::PROTOCOL`] of the caller.
    pub protocol: u16,
    /// What is asked.
    pub request: Request,
}

/// What the host can ask of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Runs a command; see the module.
    Exec(Exec),
    /// Answers [`Info`].
    Info,
    /// Ends the guest: SIGTERM to all, SIGKILL after the grace, sync, unmount, power off.
    /// Answers `{}` before it begins.
    Shutdown {
        /// How long processes have after SIGTERM, in milliseconds.
        grace_ms: u64,
    },
    /// Copies files: answers `STARTED`, and then the stream is a tree (see `banger-tree`) in the
    /// direction of the copy. Into the guest the other way carries one frame at the end, `REPLY` with
    /// [`Copied`] or `ERROR`.
    Copy(Copy),
    /// Answers [`Sockets`].
    Sockets {
        /// Ask each TCP port whether it speaks HTTP.
        #[serde(default)]
        probe: bool,
    },
    /// Answers [`Stats`].
    Stats,
    /// Sets the clock when it is off by more than half a second. Answers `{}`.
    SetClock {
        /// The time, nanoseconds since 1970.
        unix_ns: u64,
    },
    /// Waits until the disk below the root has this size, and grows the file system on it. Answers `{}`.
    GrowDisk {
        /// Size of the disk, in bytes.
        bytes: u64,
    },
    /// Work on the files below one directory: answers `STARTED`, then `REPLY` with [`Opened`] or `ERROR`, and
    /// then serves requests about it (see `banger-tree`, `session`).
    Workspace(Workspace),
    /// Makes a directory read-only for everybody in the guest, or writable again, until the guest's next
    /// start. Answers `{}`.
    Protect {
        /// Absolute path; any bytes.
        path: Vec<u8>,
        /// Which of the two.
        readonly: bool,
    },
    /// Measures the transport: answers `STARTED`, takes raw bytes until the caller's end, and then sends so
    /// many bytes itself.
    Measure {
        /// How many bytes to send.
        bytes: u64,
    },
    /// Says what changes in a directory; see [`crate::watch`].
    Watch(crate::watch::Watch),
    /// Answers [`User`].
    User {
        /// As in [`Exec::user`].
        user: Option<String>,
    },
    /// Lets the owners of these keys in by SSH from now on, and nobody else; they stay until the guest's
    /// end. Answers `{}`.
    AuthorizeKeys {
        /// As [`crate::config::Ssh::authorized_keys`].
        keys: Vec<String>,
    },
}

/// Files to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// From where to where.
    pub direction: Direction,
    /// Into the guest the one target, out of it the sources; any bytes, relative to `/`.
    pub paths: Vec<Vec<u8>>,
    /// More than one thing comes into the guest, so the target must be a directory.
    #[serde(default)]
    pub several: bool,
    /// Keep owners, special bits and all attributes.
    #[serde(default)]
    pub archive: bool,
    /// Follow a source that is a link.
    #[serde(default)]
    pub follow: bool,
    /// On whose behalf, as in [`Exec::user`].
    #[serde(default)]
    pub user: Option<String>,
}

/// Which way files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Into the guest.
    In,
    /// Out of the guest.
    Out,
}

/// Answer of [`Request::User`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home directory, absolute.
    pub home: String,
}

/// A directory to work on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Any bytes; relative to the user's home.
    pub path: Vec<u8>,
    /// On whose behalf, as in [`Exec::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// Make it, and directories on the way, when it is not there.
    #[serde(default)]
    pub create: bool,
}

/// Answer of [`Request::Workspace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The absolute path.
    pub path: Vec<u8>,
    /// Nothing is in it.
    pub empty: bool,
}

/// What arrived in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Entries of all kinds.
    pub entries: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
}

/// A command to run in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; never a shell line. Empty: the user's login shell.
    pub argv: Vec<String>,
    /// Added to the image's environment; later wins.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Absolute working directory; the image's own, else `/`, when missing.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `user`, `user:group`, `uid` or `uid:gid`; the image's own, else root, when missing.
    #[serde(default)]
    pub user: Option<String>,
    /// Run on a terminal of this size; standard error is then part of standard output.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Standard input is sent; otherwise it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// The command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Process id in the guest.
    pub pid: u32,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// Exit status 0 to 255.
    Code(u8),
    /// Number of the signal that killed it.
    Signal(u8),
}

impl Exit {
    /// The status a shell would report: 128+n for signals.
    pub fn status(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// Why a call could not be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// For the caller's exit status.
    pub kind: CallErrorKind,
    /// For people: what failed and on what.
    pub message: String,
}

/// Kinds of [`CallError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallErrorKind {
    /// No such command (127).
    NotFound,
    /// The command is not executable (126).
    NotExecutable,
    /// No such user, group or directory in the guest.
    BadRequest,
    /// The agent does not speak this protocol version or does not know the request.
    Unsupported,
    /// Anything else in the guest.
    Failed,
}

/// Answer of [`Request::Info`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// [`crate::PROTOCOL`] of the agent.
    pub protocol: u16,
    /// The agent's version.
    pub version: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Time since the guest's boot, in milliseconds.
    pub uptime_ms: u64,
    /// `MemTotal` in bytes.
    pub memory_total: u64,
    /// `MemAvailable` in bytes.
    pub memory_available: u64,
}

/// Answer of [`Request::Sockets`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// By protocol, port and address.
    pub sockets: Vec<Socket>,
    /// There are more than fit into an answer.
    #[serde(default)]
    pub cut: bool,
}

/// A socket that others can send to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where it is bound; unspecified for everywhere.
    pub address: std::net::IpAddr,
    /// Its port.
    pub port: u16,
    /// A process that has it.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The name of that process.
    #[serde(default)]
    pub process: Option<String>,
    /// Status of its answer to an HTTP request, when that was asked for and there was one.
    #[serde(default)]
    pub http: Option<u16>,
}

/// Answer of [`Request::Stats`]. Counters begin with the guest's boot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Time since the guest's boot, in milliseconds.
    pub uptime_ms: u64,
    /// Processors.
    pub cpus: u32,
    /// Time that processors were busy, in milliseconds.
    pub cpu_busy_ms: u64,
    /// Load averages of 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// `MemTotal` in bytes.
    pub memory_total: u64,
    /// `MemAvailable` in bytes.
    pub memory_available: u64,
    /// Size of the file system at `/`, in bytes.
    pub disk_size: u64,
    /// Bytes of it that are in use.
    pub disk_used: u64,
    /// Processes.
    pub processes: u32,
    /// Bytes that interfaces other than loopback received.
    pub network_received: u64,
    /// Bytes that they sent.
    pub network_sent: u64,
    /// Bytes that were read from disks.
    pub block_read: u64,
    /// Bytes that were written to disks.
    pub block_written: u64,
}

/// One line of JSON on [`crate::port::EVENTS`], pushed by the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Calls are served from now on.
    Ready {
        /// [`crate::PROTOCOL`] of the agent.
        protocol: u16,
        /// The agent's version.
        version: String,
        /// Since the guest kernel's start, in milliseconds.
        uptime_ms: u64,
    },
    /// The boot cannot go on; the guest powers off after this.
    Failed {
        /// What failed, and why.
        message: String,
    },
    /// The image's entry point ended.
    EntrypointExited {
        /// How.
        exit: Exit,
    },
}
