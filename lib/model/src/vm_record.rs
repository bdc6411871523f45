//! VMs, their volumes, and operations on them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, ImageId, KernelId, OperationId, VmId, VmName};

/// A VM: what was asked for, and its state at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: VmId,
    /// Unique name.
    pub name: VmName,
    /// State now, as the kernel tells it.
    pub state: VmState,
    /// Its image.
    pub image: ImageId,
    /// The image's name when the VM was made.
    pub image_name: String,
    /// Its kernel.
    pub kernel: KernelId,
    /// Number of virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Largest size of its own disk.
    pub disk: ByteSize,
    /// How that lies over the image: `overlay`, `snapshot`, `copy` or `qcow2`.
    #[serde(default)]
    pub disk_kind: String,
    /// Process 1: `none` is the agent, `detect` the image's init where it has one, a path that program.
    #[serde(default)]
    pub init: String,
    /// `bridge`, `user` or `none`.
    pub network: String,
    /// On the bridge, where others reach it.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// `qemu`.
    pub vmm: String,
    /// Stopped by its monitor after so many seconds without use.
    #[serde(default)]
    pub idle_stop_s: Option<u64>,
    /// Process id of the VMM while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Creation time, milliseconds since 1970.
    pub created_ms: u64,
    /// Start of the current run, milliseconds since 1970.
    #[serde(default)]
    pub started_ms: Option<u64>,
    /// Published ports, as `ADDRESS:PORT:GUESTPORT/tcp`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// What runs in it from each start on, when that was asked for or is the image's own.
    #[serde(default)]
    pub command: Vec<String>,
    /// Size of a disk of its own for the home directory.
    #[serde(default)]
    pub work_disk: Option<ByteSize>,
    /// Volumes, as `NAME:PATH`, with `:ro` where the guest cannot write.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Directories of the host, as `HOST:GUEST`, with `:rw` where the guest can write.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// Processor time of the host that it may take, in hundredths of one processor.
    #[serde(default)]
    pub cpu_limit_percent: Option<u32>,
    /// Memory of the host that all of its processes may take.
    #[serde(default)]
    pub memory_limit: Option<ByteSize>,
    /// Where its disks and logs are.
    #[serde(default)]
    pub directory: Option<std::path::PathBuf>,
    /// Where its sockets are while it runs.
    #[serde(default)]
    pub runtime: Option<std::path::PathBuf>,
    /// Why its last run ended, in one word; nothing while it runs, and in lists.
    #[serde(default)]
    pub exit: Option<String>,
    /// Something was done by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// State of a VM, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// Nothing runs.
    Stopped,
    /// The VMM runs, the guest is not ready.
    Starting,
    /// The guest serves commands.
    Running,
    /// A stop is under way.
    Stopping,
    /// The VMM runs without its monitor; stop or kill it.
    Orphaned,
}

impl std::fmt::Display for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            VmState::Stopped => "stopped",
            VmState::Starting => "starting",
            VmState::Running => "running",
            VmState::Stopping => "stopping",
            VmState::Orphaned => "orphaned",
        })
    }
}

/// A disk that belongs to no VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Unique name.
    pub name: String,
    /// Largest size.
    pub size: ByteSize,
    /// What it takes on the host.
    pub used: ByteSize,
    /// Names of the VMs that have it.
    #[serde(default)]
    pub vms: Vec<String>,
    /// It was made or removed by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// Work that goes on without the command that began it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Random id.
    pub id: OperationId,
    /// What is being done: `create`.
    pub operation: String,
    /// Name of the VM, or what it is made of while it has no name.
    pub name: String,
    /// The VM, once it is made.
    #[serde(default)]
    pub vm: Option<VmId>,
    /// State now: it is running exactly as long as its process lives.
    pub state: OperationState,
    /// What its process is, or was last, busy with.
    pub stage: String,
    /// How far the stage is, in bytes or entries.
    pub done: u64,
    /// Of how many, where that is known.
    #[serde(default)]
    pub total: Option<u64>,
    /// When it began, milliseconds since 1970.
    pub created_ms: u64,
    /// When it ended, milliseconds since 1970.
    #[serde(default)]
    pub finished_ms: Option<u64>,
    /// Exit status that the command would have ended with.
    #[serde(default)]
    pub status: Option<u8>,
    /// Why it failed; the causes follow.
    #[serde(default)]
    pub error: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Something was done by the command that prints this.
    #[serde(default)]
    pub changed: bool,
}

/// State of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// Its process lives.
    Running,
    /// It did what was asked.
    Done,
    /// It failed, or its process was killed.
    Failed,
    /// It was cancelled, and nothing of it remains.
    Cancelled,
}

impl std::fmt::Display for OperationState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            OperationState::Running => "running",
            OperationState::Done => "done",
            OperationState::Failed => "failed",
            OperationState::Cancelled => "cancelled",
        })
    }
}
