//! Making a VM: the intent first, then its directory and data disk. Nothing is booted here.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;

use lib_model::{ByteSize, ImageRecord, KernelRecord, VmId, VmName};
use lib_store::{FileLock, Locks, NewVm, Store, StoreError, VmGuard, VmRow, VmSpec};

use crate::error::io_error;
use crate::{Accel, VmError, driver, names};

/// In the directory of an ephemeral VM: held by the command that made it.
pub(crate) const OWNER_LOCK: &str = "owner.lock";

/// How a VM reaches the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// NAT inside the VMM process; needs no privileges.
    #[default]
    User,
    /// No network device.
    None,
}

impl Network {
    /// As recorded with the VM.
    pub fn as_str(self) -> &'static str {
        match self {
            Network::User => "user",
            Network::None => "none",
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "user" => Ok(Network::User),
            "none" => Ok(Network::None),
            _ => Err(format!("`{text}` is neither user nor none")),
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
    /// Acceleration.
    pub accel: Accel,
    /// Command that the agent runs once the guest is ready; usually empty.
    pub entrypoint: Vec<String>,
    /// Goes away with the command that made it.
    pub ephemeral: bool,
}

impl CreateRequest {
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
        if !(1..=64).contains(&self.cpus) {
            return out_of_range("cpus", self.cpus.to_string(), "1 to 64");
        }
        if !(96 << 20..=4 << 40).contains(&self.memory.0) {
            return out_of_range("memory", self.memory.to_string(), "96M to 4T");
        }
        if !(16 << 20..=16 << 40).contains(&self.disk.0) {
            return out_of_range("disk", self.disk.to_string(), "16M to 16T");
        }
        if let Some(total) = memory_total()
            && self.memory.0 > total
        {
            return Err(VmError::NotEnough {
                what: "memory",
                needed: self.memory.to_string(),
                available: ByteSize(total).to_string(),
            });
        }
        Ok(())
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

/// Makes a stopped VM.
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
    if image.architecture != kernel.architecture {
        return Err(VmError::Architecture {
            image: image
                .names
                .first()
                .cloned()
                .unwrap_or_else(|| image.id.to_string()),
            architecture: image.architecture.clone(),
            host: kernel.architecture.clone(),
        });
    }
    driver("qemu").program()?;
    let base = store.context().data().to_owned();
    let id = VmId::random().map_err(io_error("name a VM in", base))?;
    let mut guard = locks.vm(&id)?;
    let vm = reserve(store, &mut guard, image, kernel, request, &id)?;
    match make_files(store, &vm) {
        Ok(owner) => Ok(Created { vm, owner }),
        Err(error) => {
            // The first error is the one that helps; what remains is swept with the row gone.
            let _ = store.delete_vm(&guard, &id);
            Err(error)
        }
    }
}

/// The row, under the create lock: milliseconds.
fn reserve(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    image: &ImageRecord,
    kernel: &KernelRecord,
    request: &CreateRequest,
    id: &VmId,
) -> Result<VmRow, VmError> {
    let create = guard.create()?;
    for attempt in 0.. {
        let name = match &request.name {
            Some(name) => name.clone(),
            None => {
                names::random(attempt).map_err(io_error("name a VM in", store.context().data()))?
            }
        };
        let new = NewVm {
            id: id.clone(),
            name,
            image: image.id.clone(),
            kernel: kernel.id.clone(),
            spec: VmSpec {
                image_name: image
                    .names
                    .first()
                    .cloned()
                    .unwrap_or_else(|| image.id.to_string()),
                cpus: request.cpus,
                memory: request.memory,
                disk: request.disk,
                network: request.network.as_str().to_owned(),
                vmm: "qemu".to_owned(),
                accel: request.accel.as_str().to_owned(),
                entrypoint: request.entrypoint.clone(),
                ephemeral: request.ephemeral,
            },
        };
        match store.insert_vm(&create, &new) {
            Err(StoreError::NameTaken { .. }) if request.name.is_none() && attempt < 16 => {}
            result => return Ok(result?),
        }
    }
    unreachable!("the loop ends by returning")
}

fn make_files(store: &Store, vm: &VmRow) -> Result<Option<FileLock>, VmError> {
    let directory = store.context().vm(&vm.id);
    lib_store::private_dir(&directory)?;
    let path = directory.join("data.img");
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("create", &path))?;
    let mut uuid = [0; 16];
    let mut hash_seed = [0; 16];
    for bytes in [&mut uuid, &mut hash_seed] {
        getrandom::fill(bytes).map_err(|e| io_error("name", &path)(std::io::Error::other(e)))?;
    }
    let options = lib_fs::Options {
        label: "banger-data".into(),
        uuid,
        hash_seed,
        ..lib_fs::Options::default()
    };
    lib_fs::format_empty(&disk, vm.spec.disk.0, &options).map_err(|source| VmError::DataDisk {
        vm: vm.name.to_string(),
        source,
    })?;
    disk.sync_all().map_err(io_error("sync", &path))?;
    let owner = match vm.spec.ephemeral {
        true => {
            let path = directory.join(OWNER_LOCK);
            FileLock::try_take(&path).map_err(io_error("lock", &path))?
        }
        false => None,
    };
    File::open(&directory)
        .and_then(|d| d.sync_all())
        .map_err(io_error("sync", &directory))?;
    Ok(owner)
}

fn memory_total() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
