//! VMs: the durable intent. Whether one runs is never written here.

use std::fs;
use std::io;

use banger_failpoint::point;
use lib_model::{ByteSize, ImageId, KernelId, Publish, VmId, VmName};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::image_rows::IMAGES;
use crate::kernel_rows::KERNELS;
use crate::look_up::Table;
use crate::staging::move_to_trash;
use crate::{Complete, CreateGuard, Store, StoreError, VmGuard, io_error, now_ms};

/// What was asked for, beyond identity. Fields are only added, with a default; those that a newer banger
/// added are kept by an older one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The image's name when the VM was made.
    pub image_name: String,
    /// Number of virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Largest size of the data disk.
    pub disk: ByteSize,
    /// `bridge`, `user` or `none`.
    pub network: String,
    /// Reserved on the bridge.
    #[serde(default)]
    pub address: Option<std::net::Ipv4Addr>,
    /// `qemu`.
    pub vmm: String,
    /// `auto`, `kvm` or `tcg`.
    pub accel: String,
    /// Run the image's entry point when the guest is ready.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Made by `run`: goes away with the command.
    #[serde(default)]
    pub ephemeral: bool,
    /// The monitor stops the VM when nobody has used it for this many seconds.
    #[serde(default)]
    pub idle_stop_s: Option<u64>,
    /// Ports of the host that lead to the guest, while it runs.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Process 1 of the guest: `none` is the agent, `detect` the image's init where it has one, a path that
    /// program of the image.
    #[serde(default = "none")]
    pub init: String,
    /// Added to the image's environment, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// How the VM's own disk lies over the image: `overlay`, `snapshot`, `copy` or `qcow2`.
    #[serde(default = "overlay")]
    pub disk_kind: String,
    /// Version of the virtual machine's hardware, as the VMM calls it; empty until the first start.
    #[serde(default)]
    pub machine: String,
    /// Size of a disk of its own for the home directory.
    #[serde(default)]
    pub work_disk: Option<ByteSize>,
    /// Disks that belong to no VM.
    #[serde(default)]
    pub volumes: Vec<VolumeUse>,
    /// Directories of the host.
    #[serde(default)]
    pub shares: Vec<ShareUse>,
    /// How often the VM's own disk was begun anew; names its file.
    #[serde(default)]
    pub generation: u32,
    /// Processor time that it may take, in hundredths of one processor.
    #[serde(default)]
    pub cpu_limit: Option<u32>,
    /// Memory that all of its processes on the host may take.
    #[serde(default)]
    pub memory_limit: Option<ByteSize>,
    /// What this banger does not know.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
    /// One of the shares is the host's Nix store, which the guest has below its own.
    #[serde(default)]
    pub share_store: bool,
}

/// A volume of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// Its name.
    pub name: String,
    /// Where the guest has it.
    pub path: String,
    /// The guest cannot write.
    pub read_only: bool,
}

/// A directory of the host that a VM sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareUse {
    /// Without links.
    pub source: std::path::PathBuf,
    /// Where the guest has it.
    pub path: String,
    /// The guest cannot write.
    pub read_only: bool,
}

fn none() -> String {
    "none".into()
}

fn overlay() -> String {
    "overlay".into()
}

/// A VM to be made.
#[derive(Debug, Clone)]
pub struct NewVm {
    /// Chosen by the caller, because directories are named after it.
    pub id: VmId,
    /// Unique name.
    pub name: VmName,
    /// Its image.
    pub image: ImageId,
    /// Its kernel.
    pub kernel: KernelId,
    /// The rest.
    pub spec: VmSpec,
}

/// A row of the `vms` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Random id.
    pub id: VmId,
    /// Unique name.
    pub name: VmName,
    /// Its image.
    pub image: ImageId,
    /// Its kernel.
    pub kernel: KernelId,
    /// The rest.
    pub spec: VmSpec,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

impl Store {
    /// All VMs by name.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn vms(&self) -> Result<Vec<VmRow>, StoreError> {
        self.rows(&VMS, "ORDER BY name")
    }

    /// The VM of this name, id, or unique id prefix.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] with the nearest name, [`StoreError::Ambiguous`].
    pub fn vm(&self, selector: &str) -> Result<VmRow, StoreError> {
        self.look_up(&VMS, selector, selector, |name| name)
    }

    /// The row as it is now, for who has waited for the VM's lock: it may be changed or gone since it was
    /// looked up.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn vm_again(&self, _guard: &VmGuard<'_>, vm: &VmRow) -> Result<VmRow, StoreError> {
        self.row(&VMS, "id = ?1", vm.id.as_str())?
            .ok_or_else(|| VMS.not_found(vm.name.as_str(), None))
    }

    /// All names of VMs, sorted; for completion too.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn vm_names(&self) -> Result<Vec<String>, StoreError> {
        self.strings(VMS.names)
    }

    /// The publication atom: staging becomes the VM's directory, then its row appears.
    ///
    /// The files in `staged` are synced by the caller.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`]; [`StoreError::NotFound`] when the image or kernel was deleted
    /// meanwhile. Then nothing is published.
    pub fn publish_vm(
        &mut self,
        _guard: &CreateGuard<'_>,
        staged: Complete,
        new: &NewVm,
    ) -> Result<VmRow, StoreError> {
        self.refuse_taken_vm_name(&new.name, &new.id)?;
        // Before the rename, so that the usual reasons leave nothing to undo.
        self.row_by_id(&IMAGES, new.image.as_str())?;
        self.row_by_id(&KERNELS, new.kernel.as_str())?;
        let spec = spec_text(&new.id, &new.spec)?;
        let created_ms = now_ms();
        let target = self.context().vm(&new.id);
        let inserted = self.publish(staged, &target, |transaction| {
            transaction.execute(
                "INSERT INTO vms (id, name, image, kernel, spec, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                rusqlite::params![
                    new.id.as_str(),
                    new.name.as_str(),
                    new.image.as_str(),
                    new.kernel.as_str(),
                    spec,
                    created_ms.cast_signed(),
                ],
            )
        });
        if inserted.as_ref().is_err_and(StoreError::is_foreign_key) {
            // Deleted since the look at it above.
            self.row_by_id(&IMAGES, new.image.as_str())?;
            self.row_by_id(&KERNELS, new.kernel.as_str())?;
        }
        inserted?;
        Ok(VmRow {
            id: new.id.clone(),
            name: new.name.clone(),
            image: new.image.clone(),
            kernel: new.kernel.clone(),
            spec: new.spec.clone(),
            created_ms,
        })
    }

    /// Changes what was asked for; the identity stays. The guard comes from the VM's own.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`]; [`StoreError::NotFound`] when the new image or kernel was deleted meanwhile.
    pub fn update_vm(&mut self, _guard: &CreateGuard<'_>, vm: &VmRow) -> Result<(), StoreError> {
        self.refuse_taken_vm_name(&vm.name, &vm.id)?;
        let text = spec_text(&vm.id, &vm.spec)?;
        let updated = self.write(|transaction| {
            transaction.execute(
                "UPDATE vms SET name = ?2, image = ?3, kernel = ?4, spec = ?5 WHERE id = ?1",
                [
                    vm.id.as_str(),
                    vm.name.as_str(),
                    vm.image.as_str(),
                    vm.kernel.as_str(),
                    &text,
                ],
            )
        });
        if updated.as_ref().is_err_and(StoreError::is_foreign_key) {
            self.row_by_id(&IMAGES, vm.image.as_str())?;
            self.row_by_id(&KERNELS, vm.kernel.as_str())?;
        }
        updated.map(drop)
    }

    /// Writes into the journal. One that cannot be written is no reason to fail what has happened.
    pub fn happened(&self, id: &VmId, name: &VmName, event: &str, detail: Option<&str>) {
        let line = banger_journal::Line::now(id.as_str(), name.as_str(), event, detail);
        let _ = banger_journal::append(&self.context().journal(), &line);
    }

    fn refuse_taken_vm_name(&self, name: &VmName, id: &VmId) -> Result<(), StoreError> {
        match self.row(&VMS, VMS.by_name, name.as_str())? {
            Some(other) if other.id != *id => Err(StoreError::NameTaken {
                kind: "VM",
                name: name.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Forgets a VM that is proven dead: its sockets, the row, then its directory.
    ///
    /// # Errors
    /// When the row or the directory cannot be removed.
    pub fn delete_vm(&mut self, _guard: &VmGuard<'_>, id: &VmId) -> Result<(), StoreError> {
        // Sockets without a listener. Before the row: without it, nobody would know whose they are.
        let runtime = self.context().vm_runtime(id);
        match point("runtime.remove").and_then(|()| fs::remove_dir_all(&runtime)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &runtime)(error));
            }
            _ => {}
        }
        let before = self.row(&VMS, "id = ?1", id.as_str())?;
        self.write(|transaction| {
            transaction.execute("DELETE FROM vms WHERE id = ?1", [id.as_str()])
        })?;
        if let Some(vm) = before {
            self.happened(id, &vm.name, "deleted", None);
        }
        let directory = self.context().vm(id);
        drop(move_to_trash(self.context(), &directory)?);
        Ok(())
    }

    /// Names of the VMs whose `column` (`image` or `kernel`) is `id`.
    pub(crate) fn vms_that_use(
        &self,
        column: &'static str,
        id: &str,
    ) -> Result<Vec<String>, StoreError> {
        let failed = self.failed();
        let sql = format!("SELECT name FROM vms WHERE {column} = ?1 ORDER BY name");
        let mut statement = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let rows = statement
            .query_map([id], |row| row.get(0))
            .map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}

fn spec_text(id: &VmId, spec: &VmSpec) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|error| StoreError::DamagedRow {
        what: format!("VM {id}"),
        reason: error.to_string(),
    })
}

pub(crate) const VMS: Table<VmRow> = Table {
    kind: "VM",
    name: "vms",
    select: "SELECT id, name, image, kernel, spec, created_ms FROM vms",
    by_name: "name = ?1",
    names: "SELECT name FROM vms ORDER BY name",
    name_of: "SELECT name FROM vms WHERE id = ?1",
    read: vm,
};

fn vm(row: &Row<'_>) -> Result<VmRow, Box<dyn std::error::Error>> {
    Ok(VmRow {
        id: VmId::try_from(row.get::<_, String>(0)?)?,
        name: VmName::try_from(row.get::<_, String>(1)?)?,
        image: ImageId::try_from(row.get::<_, String>(2)?)?,
        kernel: KernelId::try_from(row.get::<_, String>(3)?)?,
        spec: serde_json::from_str(&row.get::<_, String>(4)?)?,
        created_ms: row.get::<_, i64>(5)?.cast_unsigned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_rows::tests::new_image;
    use crate::schema::tests::context;
    use crate::{Locks, NewKernel, Staged};
    use lib_model::{Digest, KernelName};

    #[test]
    fn a_vm_keeps_its_image_and_kernel_from_deletion() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut store = Store::open(&context).unwrap();
        let mut locks = Locks::new(&context, |_, _| {});
        let guard = locks.images().unwrap();
        let image = store
            .publish_image(
                &guard,
                Staged::new(&context).unwrap().complete().unwrap(),
                &new_image(1),
                Some("i"),
            )
            .unwrap();
        let new = NewKernel {
            name: KernelName::try_from("k").unwrap(),
            release: "6.1".into(),
            architecture: "amd64".into(),
            digest: Digest::from_sha256([0; 32]),
            source: "test".into(),
            vmlinux: true,
            modules: 0,
        };
        let kernel = store
            .publish_kernel(
                &guard,
                Staged::new(&context).unwrap().complete().unwrap(),
                &new,
            )
            .unwrap();
        let again = store.publish_kernel(
            &guard,
            Staged::new(&context).unwrap().complete().unwrap(),
            &new,
        );
        assert!(matches!(again, Err(StoreError::NameTaken { .. })));
        drop(guard);

        let id = VmId::random().unwrap();
        let mut new = NewVm {
            id: id.clone(),
            name: VmName::try_from("dev").unwrap(),
            image: image.id.clone(),
            kernel: kernel.id.clone(),
            spec: VmSpec {
                image_name: "i".into(),
                cpus: 1,
                memory: ByteSize(1 << 30),
                disk: ByteSize(1 << 30),
                network: "user".into(),
                vmm: "qemu".into(),
                accel: "auto".into(),
                entrypoint: Vec::new(),
                ephemeral: false,
                idle_stop_s: None,
                publish: Vec::new(),
                address: None,
                init: "none".into(),
                env: Vec::new(),
                disk_kind: "overlay".into(),
                machine: String::new(),
                work_disk: None,
                volumes: Vec::new(),
                shares: Vec::new(),
                generation: 0,
                cpu_limit: None,
                memory_limit: None,
                unknown: serde_json::Map::new(),
                share_store: false,
            },
        };
        let guard = locks.create().unwrap();
        let staged = || Staged::new(&context).unwrap().complete().unwrap();
        let row = store.publish_vm(&guard, staged(), &new).unwrap();
        assert!(context.vm(&id).exists());
        assert_eq!(store.vm("dev").unwrap(), row);
        // What a newer banger has written outlives a change by this one.
        let newer = "UPDATE vms SET spec = json_set(spec, '$.of_tomorrow', json('{\"a\":[1]}'))";
        store.connection.execute_batch(newer).unwrap();
        let mut changed = store.vm("dev").unwrap();
        changed.spec.cpus = 7;
        store.update_vm(&guard, &changed).unwrap();
        let kept: String = store
            .connection
            .query_row("SELECT spec ->> '$.of_tomorrow.a[0]' FROM vms", [], |row| {
                row.get::<_, i64>(0).map(|number| number.to_string())
            })
            .unwrap();
        assert_eq!(
            (kept.as_str(), store.vm("dev").unwrap().spec.cpus),
            ("1", 7)
        );
        store.update_vm(&guard, &row).unwrap();
        assert_eq!(store.vm(&id.as_str()[..6]).unwrap(), row);
        new.id = VmId::random().unwrap();
        assert!(matches!(
            store.publish_vm(&guard, staged(), &new),
            Err(StoreError::NameTaken { .. })
        ));
        drop(guard);

        let guard = locks.images().unwrap();
        assert!(
            matches!(store.delete_image(&guard, &image.id), Err(StoreError::InUse { users, .. }) if users == ["dev"])
        );
        assert!(matches!(
            store.delete_kernel(&guard, &kernel),
            Err(StoreError::InUse { .. })
        ));
        drop(guard);
        let guard = locks.vm(&id).unwrap();
        store.delete_vm(&guard, &id).unwrap();
        drop(guard);
        let guard = locks.images().unwrap();
        drop(store.delete_image(&guard, &image.id).unwrap());
        drop(store.delete_kernel(&guard, &kernel).unwrap());
        drop(guard);
        new.name = VmName::try_from("late").unwrap();
        let guard = locks.create().unwrap();
        assert!(matches!(
            store.publish_vm(&guard, staged(), &new),
            Err(StoreError::NotFound { kind: "image", .. })
        ));
    }
}
