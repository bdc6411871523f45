//! Making a VM: the intent first, then its directory and data disk. Nothing is booted here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use banger_failpoint::point;
use lib_model::{ByteSize, ImageRecord, KernelRecord, Publish, VmId, VmName};
use lib_store::{Complete, FileLock, Locks, NewVm, Staged, Store, VmRow, VmSpec, VolumeUse};

use crate::error::io_error;
use crate::limits::Limits;
use crate::preflight::Meminfo;
use crate::{
    Accel, DiskKind, Processes, ShareRequest, VmError, VolumeRequest, bridge, disk, driver, names,
    publish, share, volume,
};

/// The bus has 32 places.
const MOST_DEVICES: usize = 16;

/// A shorter one would stop a VM between two commands of one person.
const SHORTEST_IDLE: Duration = Duration::from_secs(60);

/// In the directory of an ephemeral VM: held by the command that made it.
pub(crate) const OWNER_LOCK: &str = "owner.lock";

/// In a VM's directory: the disk of its home directory.
pub(crate) const WORK_DISK: &str = "work.img";

/// How a VM reaches the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// NAT inside the VMM process; needs no privileges.
    #[default]
    User,
    /// An address of its own on the host's bridge; needs the network's daemon.
    Bridge,
    /// No network device.
    None,
}

impl Network {
    /// As recorded with the VM.
    pub fn as_str(self) -> &'static str {
        match self {
            Network::User => "user",
            Network::Bridge => "bridge",
            Network::None => "none",
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "user" => Ok(Network::User),
            "bridge" => Ok(Network::Bridge),
            "none" => Ok(Network::None),
            _ => Err(format!("`{text}` is neither bridge nor user nor none")),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Two random words when missing.
    pub name: Option<VmName>,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Largest size of the data disk; it takes only what is written.
    pub disk: ByteSize,
    /// Network mode.
    pub network: Network,
    /// On the bridge: may go out into the world from the beginning.
    pub nat: bool,
    /// Acceleration.
    pub accel: Accel,
    /// Process 1, and what the agent supervises; see [`crate::processes`].
    pub processes: Processes,
    /// Added to the image's environment, `NAME=value`.
    pub env: Vec<String>,
    /// How the disk lies over the image.
    pub disk_kind: DiskKind,
    /// Size of a disk for the home directory of the image's user.
    pub work_disk: Option<ByteSize>,
    /// Disks that belong to no VM.
    pub volumes: Vec<VolumeRequest>,
    /// Directories of the host.
    pub shares: Vec<ShareRequest>,
    /// The host's Nix store, too, below the guest's own.
    pub share_store: bool,
    /// Where directories may be shared from; empty: wherever they are the user's own.
    pub mount_roots: Vec<PathBuf>,
    /// Goes away with the command that made it.
    pub ephemeral: bool,
    /// Stopped by its monitor when nobody has used it for so long.
    pub idle_stop: Option<Duration>,
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
    /// Processor time at most, in hundredths of one processor.
    pub cpu_limit: Option<u32>,
    /// Memory of the host at most, the VMM's own included.
    pub memory_limit: Option<ByteSize>,
    /// Random when missing.
    pub id: Option<VmId>,
}

impl CreateRequest {
    /// What would make a VM like this one.
    pub(crate) fn of(vm: &VmRow) -> Self {
        CreateRequest {
            name: Some(vm.name.clone()),
            cpus: vm.spec.cpus,
            memory: vm.spec.memory,
            disk: vm.spec.disk,
            network: vm.spec.network.parse().unwrap_or_default(),
            nat: false,
            accel: vm.spec.accel.parse().unwrap_or_default(),
            processes: Processes {
                init: vm.spec.init.clone(),
                entrypoint: vm.spec.entrypoint.clone(),
            },
            env: vm.spec.env.clone(),
            disk_kind: vm.spec.disk_kind.parse().unwrap_or_default(),
            work_disk: vm.spec.work_disk,
            volumes: Vec::new(),
            shares: Vec::new(),
            share_store: false,
            mount_roots: Vec::new(),
            ephemeral: vm.spec.ephemeral,
            idle_stop: vm.spec.idle_stop_s.map(Duration::from_secs),
            publish: vm.spec.publish.clone(),
            cpu_limit: vm.spec.cpu_limit,
            memory_limit: vm.spec.memory_limit,
            id: None,
        }
    }

    /// Refuses what no VM can have, before anything is made.
    ///
    /// # Errors
    /// [`VmError::OutOfRange`], [`VmError::NotEnough`].
    pub fn check(&self) -> Result<(), VmError> {
        let out_of_range = |what, value: String, range: &str| {
            Err(VmError::OutOfRange {
                what,
                value,
                range: range.to_owned(),
            })
        };
        if let Some(idle) = self.idle_stop.filter(|idle| *idle < SHORTEST_IDLE) {
            let value = format!("{} s", idle.as_secs());
            return out_of_range("idle-stop", value, "a minute or more");
        }
        if !(1..=64).contains(&self.cpus) {
            return out_of_range("cpus", self.cpus.to_string(), "1 to 64");
        }
        if !(96 << 20..=4 << 40).contains(&self.memory.0) {
            return out_of_range("memory", self.memory.to_string(), "96M to 4T");
        }
        if !(16 << 20..=16 << 40).contains(&self.disk.0) {
            return out_of_range("disk", self.disk.to_string(), "16M to 16T");
        }
        if let Some(work) = self
            .work_disk
            .filter(|size| !(16 << 20..=16 << 40).contains(&size.0))
        {
            return out_of_range("work-disk", work.to_string(), "16M to 16T");
        }
        let volumes = self.volumes.iter().map(|volume| &volume.path);
        let mut paths: Vec<&String> = volumes
            .chain(self.shares.iter().map(|share| &share.path))
            .collect();
        paths.sort();
        if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return out_of_range("path", twice[0].clone(), "one volume or share on each");
        }
        if self.volumes.len() + self.shares.len() > MOST_DEVICES {
            let count = self.volumes.len() + self.shares.len();
            return out_of_range(
                "number of volumes and shares",
                count.to_string(),
                "at most 16",
            );
        }
        if let Some(total) = Meminfo::read().get("MemTotal")
            && self.memory.0 > total
        {
            return Err(VmError::NotEnough {
                what: "memory",
                needed: self.memory.to_string(),
                available: ByteSize(total).to_string(),
            });
        }
        let limits = Limits {
            cpu: self.cpu_limit,
            memory: self.memory_limit,
        };
        limits.check(self.memory)
    }
}

/// A VM that was made.
#[derive(Debug)]
pub struct Created {
    /// Its row.
    pub vm: VmRow,
    /// Of an ephemeral one: says that its maker lives. Keep it; see [`crate::sweep`].
    pub owner: Option<FileLock>,
}

/// Makes a stopped VM: its files in staging without any lock, then its name, directory and row at once.
///
/// # Errors
/// A taken name, values out of range, a full disk; then nothing of it remains.
pub fn create(
    store: &mut Store,
    locks: &mut Locks,
    image: &ImageRecord,
    kernel: &KernelRecord,
    request: &CreateRequest,
) -> Result<Created, VmError> {
    request.check()?;
    let image_name = match image.names.first() {
        Some(name) => name.clone(),
        None => image.id.to_string(),
    };
    if image.architecture != kernel.architecture {
        return Err(VmError::Architecture {
            image: image_name,
            architecture: image.architecture.clone(),
            host: kernel.architecture.clone(),
        });
    }
    request.disk_kind.check(image, request.disk)?;
    let (acceleration, _) = request.accel.choose()?;
    let driver = driver("qemu");
    driver.program()?;
    let publish = publish::resolve(&request.publish)?;
    let shares = request.shares.iter();
    let shares = shares.map(|wanted| share::resolve(wanted, &request.mount_roots));
    let mut shares = shares.collect::<Result<Vec<_>, _>>()?;
    if request.share_store {
        shares.push(share::nix_store()?);
    }
    for wanted in &request.volumes {
        volume::create_volume(store, locks, &wanted.name, volume::DEFAULT_VOLUME)?;
    }
    let id = match &request.id {
        Some(id) => id.clone(),
        None => VmId::random().map_err(io_error("name a VM in", store.context().data()))?,
    };
    let staged = Staged::new(store.context())?;
    let disk = store.context().image_disk(&image.id);
    let owner = make_files(staged.path(), request, &disk)?;
    lib_ssh::host_key(staged.path(), &id)?;
    let staged = staged.complete()?;
    let name = match &request.name {
        Some(name) => name.clone(),
        None => free_name(store)?,
    };
    // Before the lock, so that nobody waits for the daemon under it.
    let address = match request.network {
        Network::Bridge => {
            let nat = Some(request.nat);
            Some(bridge::reserve(store.context(), &id, &name, nat)?)
        }
        Network::User | Network::None => None,
    };
    let new = NewVm {
        id,
        name,
        image: image.id.clone(),
        kernel: kernel.id.clone(),
        spec: VmSpec {
            image_name,
            cpus: request.cpus,
            memory: request.memory,
            disk: request.disk,
            network: request.network.as_str().to_owned(),
            address,
            vmm: "qemu".to_owned(),
            accel: request.accel.as_str().to_owned(),
            entrypoint: request.processes.entrypoint.clone(),
            ephemeral: request.ephemeral,
            idle_stop_s: request.idle_stop.map(|idle| idle.as_secs()),
            publish,
            init: request.processes.init.clone(),
            env: request.env.clone(),
            disk_kind: request.disk_kind.as_str().to_owned(),
            machine: driver.machine(acceleration).to_owned(),
            work_disk: request.work_disk,
            volumes: volume_uses(&request.volumes),
            shares,
            generation: 0,
            cpu_limit: request.cpu_limit,
            memory_limit: request.memory_limit,
            unknown: serde_json::Map::new(),
            share_store: request.share_store,
        },
    };
    let id = new.id.clone();
    match publish_row(store, locks, staged, request.name.is_none(), new) {
        Ok(vm) => {
            // Here, because its sync is nothing to hold a lock for.
            let image = Some(&*vm.spec.image_name);
            store.happened(&vm.id, &vm.name, "created", image);
            Ok(Created { vm, owner })
        }
        Err(error) => {
            if address.is_some() {
                bridge::release(store.context(), &id);
            }
            Err(error)
        }
    }
}

fn volume_uses(wanted: &[VolumeRequest]) -> Vec<VolumeUse> {
    let uses = wanted.iter().map(|wanted| VolumeUse {
        name: wanted.name.to_string(),
        path: wanted.path.clone(),
        read_only: wanted.read_only,
    });
    uses.collect()
}

/// The name, the directory and the row, at once. A name that we chose may be taken by now; the daemon of
/// the network hears of another one when the VM starts.
fn publish_row(
    store: &mut Store,
    locks: &mut Locks,
    staged: Complete,
    any_name: bool,
    mut new: NewVm,
) -> Result<VmRow, VmError> {
    let create = locks.create()?;
    let names = new.spec.volumes.iter().map(|volume| volume.name.clone());
    volume::check_there(&create, store.context(), names)?;
    if any_name {
        new.name = free_name(store)?;
    }
    Ok(store.publish_vm(&create, staged, &new)?)
}

/// Two random words that no VM has; for sure only while the caller holds `create`.
fn free_name(store: &Store) -> Result<VmName, VmError> {
    let taken: HashSet<String> = store.vm_names()?.into_iter().collect();
    let random =
        |attempt| names::random(attempt).map_err(io_error("name a VM in", store.context().data()));
    for attempt in 0.. {
        let name = random(attempt)?;
        if !taken.contains(name.as_str()) {
            return Ok(name);
        }
    }
    unreachable!("the loop ends by returning")
}

/// What a VM's directory holds before its first start. An ephemeral one's owner is locked from the
/// beginning, so that no sweep finds it without one.
fn make_files(
    directory: &Path,
    request: &CreateRequest,
    image: &Path,
) -> Result<Option<FileLock>, VmError> {
    let kind = request.disk_kind;
    kind.make(&directory.join(kind.file(0)), request.disk, image)?;
    if let Some(size) = request.work_disk {
        let path = directory.join(WORK_DISK);
        let disk = point("vm.work-disk.create")
            .and_then(|()| disk::create(&path))
            .map_err(io_error("create", &path))?;
        disk::format(&disk, &path, "banger-work", size)?;
        disk.sync_all().map_err(io_error("sync", &path))?;
    }
    if !request.ephemeral {
        return Ok(None);
    }
    let path = directory.join(OWNER_LOCK);
    FileLock::try_take(&path).map_err(io_error("lock", &path))
}
