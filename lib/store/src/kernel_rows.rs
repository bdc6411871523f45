//! Kernels: publication, look-up, deletion. They share the images lock.

use lib_model::{Digest, ImageRecord, KernelId, KernelName, KernelRecord, SCHEMA};
use rusqlite::Row;

use crate::look_up::Table;
use crate::staging::move_to_trash;
use crate::{Complete, ImagesGuard, Store, StoreError, Trash, now_ms};

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
        self.rows(&KERNELS, "ORDER BY created_ms DESC, id")
    }

    /// The kernel of this name, id, or unique id prefix.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] with the nearest name, [`StoreError::Ambiguous`].
    pub fn kernel(&self, selector: &str) -> Result<KernelRecord, StoreError> {
        self.look_up(&KERNELS, selector, selector, |name| name)
    }

    /// The kernel that was imported from a file of this digest.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn kernel_by_digest(&self, digest: &Digest) -> Result<Option<KernelRecord>, StoreError> {
        let newest = "digest = ?1 ORDER BY created_ms DESC LIMIT 1";
        self.row(&KERNELS, newest, digest.as_str())
    }

    /// All names of kernels, sorted; for completion too.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn kernel_names(&self) -> Result<Vec<String>, StoreError> {
        self.strings(KERNELS.names)
    }

    /// The publication atom: staging becomes the kernel's directory, then its row appears.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`]; then nothing is published.
    pub fn publish_kernel(
        &mut self,
        _guard: &ImagesGuard<'_>,
        staged: Complete,
        new: &NewKernel,
    ) -> Result<KernelRecord, StoreError> {
        if self
            .row(&KERNELS, KERNELS.by_name, new.name.as_str())?
            .is_some()
        {
            return Err(StoreError::NameTaken {
                kind: "kernel",
                name: new.name.to_string(),
            });
        }
        let id = KernelId::random()
            .map_err(crate::io_error("name a kernel in", self.context().data()))?;
        let target = self.context().kernel(&id);
        self.publish(staged, &target, |transaction| {
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
            ..self.row_by_id(&KERNELS, id.as_str())?
        })
    }

    fn images_with_kernel(&self, kernel: &KernelRecord) -> Result<Vec<String>, StoreError> {
        let images = self.images()?.into_iter();
        let with = images.filter(|image| image.kernel.as_ref() == Some(&kernel.id));
        let name = |image: ImageRecord| match image.names.into_iter().next() {
            Some(name) => name,
            None => image.id.to_string(),
        };
        Ok(with.map(name).collect())
    }

    /// Deletes a kernel that no VM and no image uses; as [`Store::delete_image`].
    ///
    /// # Errors
    /// [`StoreError::InUse`] with the names of the VMs, [`StoreError::KernelOfImages`].
    pub fn delete_kernel(
        &mut self,
        _guard: &ImagesGuard<'_>,
        kernel: &KernelRecord,
    ) -> Result<Trash, StoreError> {
        let deleted = self.write(|transaction| {
            transaction.execute("DELETE FROM kernels WHERE id = ?1", [kernel.id.as_str()])
        });
        if deleted.as_ref().is_err_and(StoreError::is_foreign_key) {
            let name = kernel.name.to_string();
            let users = self.vms_that_use("kernel", kernel.id.as_str())?;
            return Err(match users.is_empty() {
                true => StoreError::KernelOfImages {
                    name,
                    images: self.images_with_kernel(kernel)?,
                },
                false => StoreError::InUse {
                    kind: "kernel",
                    name,
                    users,
                },
            });
        }
        deleted?;
        move_to_trash(self.context(), &self.context().kernel(&kernel.id))
    }
}

pub(crate) const KERNELS: Table<KernelRecord> = Table {
    kind: "kernel",
    name: "kernels",
    select: "SELECT id, name, release, architecture, digest, source, vmlinux, modules, created_ms FROM kernels",
    by_name: "name = ?1",
    names: "SELECT name FROM kernels ORDER BY name",
    name_of: "SELECT name FROM kernels WHERE id = ?1",
    read: kernel,
};

fn kernel(row: &Row<'_>) -> Result<KernelRecord, Box<dyn std::error::Error>> {
    Ok(KernelRecord {
        schema: SCHEMA,
        id: KernelId::try_from(row.get::<_, String>(0)?)?,
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
}
