//! Kernels: publication, look-up, deletion. They share the images lock.

use std::fs;

use lib_model::{Digest, KernelId, KernelName, KernelRecord, SCHEMA, nearest};
use rusqlite::{OptionalExtension, Row};

use crate::staging::move_to_trash;
use crate::{ImagesGuard, Staged, Store, StoreError, now_ms};

/// What is known of a kernel before it is published.
#[derive(Debug, Clone)]
pub struct NewKernel {
    /// Unique name.
    pub name: KernelName,
    /// `uname -r`.
    pub release: String,
    /// OCI architecture.
    pub architecture: String,
    /// Digest of the imported file.
    pub digest: Digest,
    /// Where it came from.
    pub source: String,
    /// An uncompressed ELF kernel is there.
    pub vmlinux: bool,
    /// Number of modules in the module image.
    pub modules: u64,
}

impl Store {
    /// All kernels, newest first: the first one is the default.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn kernels(&self) -> Result<Vec<KernelRecord>, StoreError> {
        let failed = self.failed();
        let mut statement = self
            .connection
            .prepare_cached(&format!("{SELECT} ORDER BY created_ms DESC, id"))
            .map_err(&failed)?;
        let rows = statement
            .query_map([], |row| Ok(kernel(row)))
            .map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)?).collect()
    }

    /// The kernel of this name, id, or unique id prefix.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] with the nearest name, [`StoreError::Ambiguous`].
    pub fn kernel(&self, selector: &str) -> Result<KernelRecord, StoreError> {
        if let Some(kernel) = self.one_kernel("name = ?1", selector)? {
            return Ok(kernel);
        }
        let not_found = |nearest| StoreError::NotFound {
            kind: "kernel",
            selector: selector.to_owned(),
            nearest,
        };
        let ids = self.ids_by_prefix("kernels", selector)?;
        match &ids[..] {
            [id] => self
                .one_kernel("id = ?1", id)?
                .ok_or_else(|| not_found(None)),
            [] => {
                let names = self.kernel_names()?;
                Err(not_found(
                    nearest(selector, names.iter().map(String::as_str)).map(str::to_owned),
                ))
            }
            _ => Err(StoreError::Ambiguous {
                kind: "kernel",
                selector: selector.to_owned(),
                matches: ids,
            }),
        }
    }

    /// The kernel that was imported from a file of this digest.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn kernel_by_digest(&self, digest: &Digest) -> Result<Option<KernelRecord>, StoreError> {
        self.one_kernel(
            "digest = ?1 ORDER BY created_ms DESC LIMIT 1",
            digest.as_str(),
        )
    }

    fn one_kernel(&self, condition: &str, value: &str) -> Result<Option<KernelRecord>, StoreError> {
        let failed = self.failed();
        self.connection
            .prepare_cached(&format!("{SELECT} WHERE {condition}"))
            .map_err(&failed)?
            .query_row([value], |row| Ok(kernel(row)))
            .optional()
            .map_err(failed)?
            .transpose()
    }

    /// All names of kernels, sorted; for completion too.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn kernel_names(&self) -> Result<Vec<String>, StoreError> {
        self.strings("SELECT name FROM kernels ORDER BY name")
    }

    /// The publication atom: staging becomes the kernel's directory, then its row appears.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`]; then nothing is published.
    pub fn publish_kernel(
        &mut self,
        _guard: &ImagesGuard<'_>,
        staged: Staged,
        new: &NewKernel,
    ) -> Result<KernelRecord, StoreError> {
        self.sweep_unpublished("kernels")?;
        if self.one_kernel("name = ?1", new.name.as_str())?.is_some() {
            return Err(StoreError::NameTaken {
                kind: "kernel",
                name: new.name.to_string(),
            });
        }
        let id = KernelId::random()
            .map_err(crate::io_error("name a kernel in", self.context().data()))?;
        staged.publish(&self.context().kernel(&id))?;
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO kernels (id, name, release, architecture, digest, source, vmlinux, modules, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                rusqlite::params![
                    id.as_str(),
                    new.name.as_str(),
                    new.release,
                    new.architecture,
                    new.digest.as_str(),
                    new.source,
                    new.vmlinux,
                    new.modules.cast_signed(),
                    now_ms().cast_signed(),
                ],
            )
        })?;
        Ok(KernelRecord {
            changed: true,
            ..self.kernel(id.as_str())?
        })
    }

    /// Deletes a kernel that no VM uses: the row, then the files.
    ///
    /// # Errors
    /// [`StoreError::InUse`] with the names of the VMs.
    pub fn delete_kernel(
        &mut self,
        _guard: &ImagesGuard<'_>,
        kernel: &KernelRecord,
    ) -> Result<(), StoreError> {
        let users = self.vms_that_use("kernel", kernel.id.as_str())?;
        if !users.is_empty() {
            return Err(StoreError::InUse {
                kind: "kernel",
                name: kernel.name.to_string(),
                users,
            });
        }
        self.write(|transaction| {
            transaction.execute("DELETE FROM kernels WHERE id = ?1", [kernel.id.as_str()])
        })?;
        let directory = self.context().kernel(&kernel.id);
        if let Some(trash) = move_to_trash(self.context(), &directory)? {
            let _ = fs::remove_dir_all(trash);
        }
        Ok(())
    }
}

const SELECT: &str = "SELECT id, name, release, architecture, digest, source, vmlinux, modules, created_ms FROM kernels";

fn kernel(row: &Row<'_>) -> Result<KernelRecord, StoreError> {
    let id: String = row.get(0).unwrap_or_default();
    let read = || -> Result<KernelRecord, Box<dyn std::error::Error>> {
        Ok(KernelRecord {
            schema: SCHEMA,
            id: KernelId::try_from(id.as_str())?,
            name: KernelName::try_from(row.get::<_, String>(1)?)?,
            release: row.get(2)?,
            architecture: row.get(3)?,
            digest: Digest::try_from(row.get::<_, String>(4)?)?,
            source: row.get(5)?,
            vmlinux: row.get(6)?,
            modules: row.get::<_, i64>(7)?.cast_unsigned(),
            created_ms: row.get::<_, i64>(8)?.cast_unsigned(),
            changed: false,
        })
    };
    read().map_err(|error| StoreError::DamagedRow {
        what: format!("kernel {id}"),
        reason: error.to_string(),
    })
}
