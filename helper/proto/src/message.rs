//! Requests and answers.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{GroupName, InterfaceName, Mac, Machine, PROTOCOL, StoreTag, VmId, VmName};

/// Most descriptors that come with a request.
pub const MAX_DESCRIPTORS: usize = 16;

/// The first frame of both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u16,
    /// Name and version, for people.
    pub program: String,
}

impl Hello {
    /// Ours.
    pub fn new(program: &str) -> Self {
        Hello {
            protocol: PROTOCOL,
            program: program.to_owned(),
        }
    }
}

/// What a caller asks for. Nothing but a change of the caller's own objects, or a look at them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Makes the bridge and the rules, if they are not there.
    Up {},
    /// Removes them. Refused while VMs are attached.
    Down {},
    /// Says how the network is.
    Status {},
    /// The caller's reservations; all of them for root.
    List {},
    /// Reserves an address for a VM, or finds the one it has; takes over its name.
    Reserve {
        /// The VM.
        vm: VmId,
        /// Its name.
        name: VmName,
        /// The store that it is in.
        store: StoreTag,
    },
    /// Makes the VM's interface; its descriptor comes with the answer. It lasts as long as that is open.
    Attach {
        /// The VM.
        vm: VmId,
    },
    /// Takes the VM's interface away, whoever has it open.
    Detach {
        /// The VM.
        vm: VmId,
    },
    /// Gives the VM's address back, and takes away all that it has. Nothing there is no error.
    Release {
        /// The VM.
        vm: VmId,
    },
    /// Lets the VM out into the world through the host's address, or not.
    Nat {
        /// The VM.
        vm: VmId,
        /// Out or not.
        enabled: bool,
    },
    /// Puts the VM into a group, or out of the one that it is in.
    Group {
        /// The VM.
        vm: VmId,
        /// One of the caller's own.
        group: Option<GroupName>,
    },
    /// Tells the host's resolver where names of VMs are served, or takes that back, or only looks.
    Route {
        /// Which of the three.
        change: RouteChange,
    },
    /// Gives back the caller's addresses that no VM of the store has, and what has no owner at all.
    Gc {
        /// The store that was looked at.
        store: StoreTag,
        /// The VMs that are in it.
        keep: Vec<VmId>,
        /// Younger ones are left: their VM may just be being made. Seconds.
        min_age_s: u64,
    },
    /// Lets what the bridge forwards through a firewall that another program made (Docker's), or no more.
    Admit {
        /// Through or not.
        enabled: bool,
    },
    /// Makes a block device of the file that comes with it; the device's descriptor comes with the answer,
    /// and keeps it.
    Loop {
        /// The VM.
        vm: VmId,
        /// Not for writing.
        read_only: bool,
    },
    /// Makes a block device of an image and what was written to it, two files that come with it: the image,
    /// then the exceptions (dm-snapshot, persistent). The device's descriptor comes with the answer, and keeps it.
    Snapshot {
        /// The VM.
        vm: VmId,
        /// Length of the device in bytes, a multiple of 4096; behind the image's end are zeros.
        size: u64,
    },
    /// Takes the VM's devices away that nobody has open; the others go when they are closed. Nothing there
    /// is no error.
    Unmap {
        /// The VM.
        vm: VmId,
    },
    /// Starts the VM's machine monitor in a jail. Descriptors come with it, as [`Machine`] says; one that
    /// tells of its end (pidfd_open(2)) comes with the answer.
    Launch {
        /// The VM.
        vm: VmId,
        /// What it has.
        machine: Machine,
    },
    /// Sends a signal to what runs in the VM's jail.
    Signal {
        /// The VM.
        vm: VmId,
        /// Nothing to only ask whether it runs.
        signal: Option<Signal>,
    },
}

/// What a jailed process can be sent (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// SIGTERM: QEMU ends in order.
    Term,
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

impl Request {
    /// The verb, as it is written in audit lines and in `OPERATIONS.md`.
    pub fn verb(&self) -> &'static str {
        match self {
            Request::Up {} => "up",
            Request::Down {} => "down",
            Request::Status {} => "status",
            Request::List {} => "list",
            Request::Reserve { .. } => "reserve",
            Request::Attach { .. } => "attach",
            Request::Detach { .. } => "detach",
            Request::Release { .. } => "release",
            Request::Nat { .. } => "nat",
            Request::Group { .. } => "group",
            Request::Route { .. } => "route",
            Request::Gc { .. } => "gc",
            Request::Admit { .. } => "admit",
            Request::Loop { .. } => "loop",
            Request::Snapshot { .. } => "snapshot",
            Request::Unmap { .. } => "unmap",
            Request::Launch { .. } => "launch",
            Request::Signal { .. } => "signal",
        }
    }

    /// The VM that it is about.
    pub fn vm(&self) -> Option<&VmId> {
        match self {
            Request::Reserve { vm, .. }
            | Request::Attach { vm }
            | Request::Detach { vm }
            | Request::Release { vm }
            | Request::Nat { vm, .. }
            | Request::Group { vm, .. }
            | Request::Loop { vm, .. }
            | Request::Snapshot { vm, .. }
            | Request::Unmap { vm }
            | Request::Launch { vm, .. }
            | Request::Signal { vm, .. } => Some(vm),
            Request::Up {}
            | Request::Down {}
            | Request::Status {}
            | Request::List {}
            | Request::Route { .. }
            | Request::Gc { .. }
            | Request::Admit { .. } => None,
        }
    }

    /// How many descriptors come with it: exactly so many.
    pub fn descriptors(&self) -> usize {
        match self {
            Request::Loop { .. } => 1,
            Request::Snapshot { .. } => 2,
            Request::Launch { machine, .. } => machine.descriptors(),
            _ => 0,
        }
    }
}

/// The answer to a request: it was done, or why not.
pub type Answer = Result<Response, Refusal>;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Something is different now.
    pub changed: bool,
    /// What there is to know.
    pub reply: Reply,
}

/// What there is to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// After `up`, `down` and `status`.
    Network(NetworkStatus),
    /// What the verb was about; after `release`, what was there.
    Reservation(Option<Reservation>),
    /// After `list`; after `gc`, what was given back.
    Reservations(Vec<Reservation>),
    /// After `route`.
    Route(RouteStatus),
    /// After `launch` and `signal`.
    Jail(Jail),
}

/// A VM's jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// The VM.
    pub vm: VmId,
    /// Something runs in it.
    pub running: bool,
    /// The uid and gid that only this VM's jail has.
    pub uid: u32,
}

/// What to do about the route of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteChange {
    /// There shall be one.
    Up,
    /// There shall be none.
    Down,
    /// Nothing.
    Look,
}

/// How names of VMs get from the host's resolver to their server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// systemd-resolved asks the server about the zones.
    pub up: bool,
    /// The link that it is told about.
    pub link: InterfaceName,
    /// The server, at port 53.
    pub server: Ipv4Addr,
    /// The zones, without a dot at the end.
    pub zones: Vec<String>,
}

/// How the network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The bridge's name.
    pub bridge: InterfaceName,
    /// Bridge and rules are there.
    pub up: bool,
    /// The host's address on the bridge.
    pub gateway: Ipv4Addr,
    /// Length of the pool's prefix, in bits.
    pub prefix: u8,
    /// Addresses that are reserved, of all users.
    pub reserved: u32,
    /// Addresses that can still be reserved.
    pub free: u32,
    /// VMs with an interface, of all users.
    pub attached: u32,
    /// The host forwards packets (ip_forward).
    pub forwarding: bool,
    /// The daemon switched that on, and will switch it off with `down`.
    pub forwarding_is_ours: bool,
    /// Another program's firewall was told to let the bridge through, until `down`.
    #[serde(default)]
    pub admitted: bool,
    /// What is there for VMs that nobody reserved, in words; `gc` takes it away.
    #[serde(default)]
    pub leftovers: Vec<String>,
    /// The program that answers, with its version.
    pub program: String,
}

/// A VM's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// The store that it is in.
    pub store: StoreTag,
    /// Who owns it.
    pub uid: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix, in bits.
    pub prefix: u8,
    /// The host's address on the bridge: default gateway and resolver.
    pub gateway: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// The host's interface for it, while it is attached.
    pub interface: InterfaceName,
    /// The interface is there.
    pub attached: bool,
    /// It may go out into the world.
    pub nat: bool,
    /// The group that it is in.
    pub group: Option<GroupName>,
    /// When the address was reserved, milliseconds since 1970.
    pub reserved_ms: u64,
    /// After `list`: something runs in its jail.
    #[serde(default)]
    pub jailed: bool,
    /// After `list`: so many block devices are there for it.
    #[serde(default)]
    pub devices: u32,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// What failed and on what.
    pub message: String,
    /// A command that helps.
    pub hint: Option<String>,
}

impl Refusal {
    /// Without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// With one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The caller may not do this, or the object is somebody else's.
    Denied,
    /// The request is not understood.
    Invalid,
    /// There is no such reservation.
    NotFound,
    /// It is in use.
    Busy,
    /// The pool or a limit.
    Exhausted,
    /// Addresses of the pool are in use elsewhere.
    Overlap,
    /// Something of that name is there, and was not made by us.
    NotOurs,
    /// The kernel, a program or a file.
    Failed,
}

impl Code {
    /// As in audit lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Denied => "denied",
            Code::Invalid => "invalid",
            Code::NotFound => "not-found",
            Code::Busy => "busy",
            Code::Exhausted => "exhausted",
            Code::Overlap => "overlap",
            Code::NotOurs => "not-ours",
            Code::Failed => "failed",
        }
    }
}
