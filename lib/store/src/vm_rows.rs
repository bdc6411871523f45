//! VMs: the durable intent. Whether one runs is never written here.

use std::fs;

use lib_model::{ByteSize, ImageId, KernelId, VmId, VmName, nearest};
use rusqlite::{OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use crate::staging::move_to_trash;
use crate::{CreateGuard, Store, StoreError, VmGuard, now_ms};

/// What was asked for, beyond identity. Fields are only added, with a default.
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
    /// `user` or `none`.
    pub network: String,
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
        let failed = self.failed();
        let mut statement = self
            .connection
            .prepare_cached(&format!("{SELECT} ORDER BY name"))
            .map_err(&failed)?;
        let rows = statement
            .query_map([], |row| Ok(vm(row)))
            .map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)?).collect()
    }

    /// The VM of this name, id, or unique id prefix.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] with the nearest name, [`StoreError::Ambiguous`].
    pub fn vm(&self, selector: &str) -> Result<VmRow, StoreError> {
        if let Some(vm) = self.one_vm("name = ?1", selector)? {
            return Ok(vm);
        }
        let not_found = |nearest| StoreError::NotFound {
            kind: "VM",
            selector: selector.to_owned(),
            nearest,
        };
        let ids = self.ids_by_prefix("vms", selector)?;
        match &ids[..] {
            [id] => self.one_vm("id = ?1", id)?.ok_or_else(|| not_found(None)),
            [] => {
                let names = self.vm_names()?;
                Err(not_found(
                    nearest(selector, names.iter().map(String::as_str)).map(str::to_owned),
                ))
            }
            _ => Err(StoreError::Ambiguous {
                kind: "VM",
                selector: selector.to_owned(),
                matches: ids,
            }),
        }
    }

    fn one_vm(&self, condition: &str, value: &str) -> Result<Option<VmRow>, StoreError> {
        let failed = self.failed();
        self.connection
            .prepare_cached(&format!("{SELECT} WHERE {condition}"))
            .map_err(&failed)?
            .query_row([value], |row| Ok(vm(row)))
            .optional()
            .map_err(failed)?
            .transpose()
    }

    /// All names of VMs, sorted; for completion too.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn vm_names(&self) -> Result<Vec<String>, StoreError> {
        self.strings("SELECT name FROM vms ORDER BY name")
    }

    /// Records the intent to have a VM; its directory is made after this.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`]; [`StoreError::NotFound`] when the image or kernel was deleted meanwhile.
    pub fn insert_vm(
        &mut self,
        _guard: &CreateGuard<'_>,
        new: &NewVm,
    ) -> Result<VmRow, StoreError> {
        if self.one_vm("name = ?1", new.name.as_str())?.is_some() {
            return Err(StoreError::NameTaken {
                kind: "VM",
                name: new.name.to_string(),
            });
        }
        let spec = serde_json::to_string(&new.spec).map_err(|error| StoreError::DamagedRow {
            what: format!("vm {}", new.id),
            reason: error.to_string(),
        })?;
        let created_ms = now_ms();
        let inserted = self.write(|transaction| {
            transaction.execute(
                "INSERT INTO vms (id, name, image, kernel, spec, created_ms)
                 SELECT ?1, ?2, images.id, kernels.id, ?5, ?6 FROM images, kernels
                 WHERE images.id = ?3 AND kernels.id = ?4",
                rusqlite::params![
                    new.id.as_str(),
                    new.name.as_str(),
                    new.image.as_str(),
                    new.kernel.as_str(),
                    spec,
                    created_ms.cast_signed(),
                ],
            )
        })?;
        if inserted == 0 {
            self.image_by_id(new.image.as_str())?;
            self.kernel(new.kernel.as_str())?;
        }
        Ok(VmRow {
            id: new.id.clone(),
            name: new.name.clone(),
            image: new.image.clone(),
            kernel: new.kernel.clone(),
            spec: new.spec.clone(),
            created_ms,
        })
    }

    /// Forgets a VM that is proven dead: the row, then its directory.
    ///
    /// # Errors
    /// When the row or the directory cannot be removed.
    pub fn delete_vm(&mut self, _guard: &VmGuard<'_>, id: &VmId) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM vms WHERE id = ?1", [id.as_str()])
        })?;
        let directory = self.context().vm(id);
        if let Some(trash) = move_to_trash(self.context(), &directory)? {
            let _ = fs::remove_dir_all(trash);
        }
        let _ = fs::remove_dir_all(self.context().vm_runtime(id));
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

    pub(crate) fn strings(&self, sql: &'static str) -> Result<Vec<String>, StoreError> {
        let failed = self.failed();
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Ids in `table` that begin with `prefix`, at most ten; none for what is no hexadecimal text or too
    /// short.
    pub(crate) fn ids_by_prefix(
        &self,
        table: &'static str,
        prefix: &str,
    ) -> Result<Vec<String>, StoreError> {
        if prefix.len() < SHORTEST_PREFIX || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Vec::new());
        }
        let failed = self.failed();
        let sql = format!(
            "SELECT id FROM {table} WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 10"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let rows = statement
            .query_map([prefix.to_ascii_lowercase()], |row| row.get(0))
            .map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Removes directories under `table`'s folder that have no row. Only under the images lock, so
    /// that no publication is between its rename and its row.
    pub(crate) fn sweep_unpublished(&self, table: &'static str) -> Result<(), StoreError> {
        for entry in fs::read_dir(self.context().data().join(table))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let known = match name.to_str() {
                Some(id) => self
                    .ids_by_prefix(table, id)?
                    .iter()
                    .any(|known| known == id),
                None => false,
            };
            if !known {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

/// Shorter ones could be mistyped names: `a`, `bad`, `cafe`.
const SHORTEST_PREFIX: usize = 6;

const SELECT: &str = "SELECT id, name, image, kernel, spec, created_ms FROM vms";

fn vm(row: &Row<'_>) -> Result<VmRow, StoreError> {
    let id: String = row.get(0).unwrap_or_default();
    let read = || -> Result<VmRow, Box<dyn std::error::Error>> {
        Ok(VmRow {
            id: VmId::try_from(id.as_str())?,
            name: VmName::try_from(row.get::<_, String>(1)?)?,
            image: ImageId::try_from(row.get::<_, String>(2)?)?,
            kernel: KernelId::try_from(row.get::<_, String>(3)?)?,
            spec: serde_json::from_str(&row.get::<_, String>(4)?)?,
            created_ms: row.get::<_, i64>(5)?.cast_unsigned(),
        })
    };
    read().map_err(|error| StoreError::DamagedRow {
        what: format!("vm {id}"),
        reason: error.to_string(),
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
                Staged::new(&context).unwrap(),
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
            .publish_kernel(&guard, Staged::new(&context).unwrap(), &new)
            .unwrap();
        let again = store.publish_kernel(&guard, Staged::new(&context).unwrap(), &new);
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
            },
        };
        let guard = locks.create().unwrap();
        let row = store.insert_vm(&guard, &new).unwrap();
        assert_eq!(store.vm("dev").unwrap(), row);
        assert_eq!(store.vm(&id.as_str()[..6]).unwrap(), row);
        new.id = VmId::random().unwrap();
        assert!(matches!(
            store.insert_vm(&guard, &new),
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
        store.delete_image(&guard, &image.id).unwrap();
        store.delete_kernel(&guard, &kernel).unwrap();
        drop(guard);
        new.name = VmName::try_from("late").unwrap();
        let guard = locks.create().unwrap();
        assert!(matches!(
            store.insert_vm(&guard, &new),
            Err(StoreError::NotFound { kind: "image", .. })
        ));
    }
}
