//! Images: publication, names, look-up, deletion.

use lib_model::{ByteSize, Digest, ImageId, ImageRecord, KernelId, OciConfig, Reference, SCHEMA};
use rusqlite::Row;

use crate::look_up::Table;
use crate::staging::move_to_trash;
use crate::{Complete, ImagesGuard, Store, StoreError, Trash, now_ms};

/// What is known of an image before it is published.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Digest of the manifest, or of the content.
    pub digest: Digest,
    /// Where it came from.
    pub source: String,
    /// OCI architecture.
    pub architecture: String,
    /// File system type of `rootfs.img`.
    pub filesystem: String,
    /// Length of the image file.
    pub size: ByteSize,
    /// Bytes in use.
    pub used: ByteSize,
    /// How to run it.
    pub config: OciConfig,
    /// The kernel that it brings, which is in the store already.
    pub kernel: Option<KernelId>,
}

impl Store {
    /// All images, newest first.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.rows(&IMAGES, "ORDER BY created_ms DESC, id")
    }

    /// The image of this name, id, or unique id prefix.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] with the nearest name, [`StoreError::Ambiguous`].
    pub fn image(&self, selector: &str) -> Result<ImageRecord, StoreError> {
        let name =
            Reference::try_from(selector).map_or_else(|_| selector.to_owned(), |r| r.familiar());
        self.look_up(&IMAGES, selector, &name, untagged)
    }

    /// The newest image with this manifest digest.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn image_by_digest(&self, digest: &Digest) -> Result<Option<ImageRecord>, StoreError> {
        let newest = "digest = ?1 ORDER BY created_ms DESC LIMIT 1";
        self.row(&IMAGES, newest, digest.as_str())
    }

    /// All names of images, sorted; for completion too.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn image_names(&self) -> Result<Vec<String>, StoreError> {
        self.strings(IMAGES.names)
    }

    /// The publication atom: staging becomes the image's directory, then its row appears.
    ///
    /// A name that another image has moves here.
    ///
    /// # Errors
    /// When the rename or the row fails; then nothing is published.
    pub fn publish_image(
        &mut self,
        _guard: &ImagesGuard<'_>,
        staged: Complete,
        new: &NewImage,
        name: Option<&str>,
    ) -> Result<ImageRecord, StoreError> {
        let id = staged.image_id().clone();
        let config =
            serde_json::to_string(&new.config).map_err(|error| StoreError::DamagedRow {
                what: format!("image {id}"),
                reason: error.to_string(),
            })?;
        let target = self.context().image(&id);
        self.publish(staged, &target, |transaction| {
            transaction.execute(
                "INSERT INTO images (id, digest, source, architecture, filesystem, size, used, config, created_ms, kernel)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                rusqlite::params![
                    id.as_str(),
                    new.digest.as_str(),
                    new.source,
                    new.architecture,
                    new.filesystem,
                    new.size.0.cast_signed(),
                    new.used.0.cast_signed(),
                    config,
                    now_ms().cast_signed(),
                    new.kernel.as_ref().map(KernelId::as_str),
                ],
            )?;
            if let Some(name) = name {
                transaction
                    .execute("INSERT OR REPLACE INTO image_names (name, image) VALUES (?1, ?2)", [
                        name,
                        id.as_str(),
                    ])?;
            }
            Ok(())
        })?;
        Ok(ImageRecord {
            changed: true,
            ..self.row_by_id(&IMAGES, id.as_str())?
        })
    }

    /// Points a name to an image; returns whether that changed anything.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn name_image(
        &mut self,
        _guard: &ImagesGuard<'_>,
        id: &ImageId,
        name: &str,
    ) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let changed = transaction.execute(
                "INSERT INTO image_names (name, image) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET image = excluded.image WHERE image != excluded.image",
                [name, id.as_str()],
            )?;
            Ok(changed > 0)
        })
    }

    /// Takes a name away; returns the image that had it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when none had; when the row cannot be removed.
    pub fn unname_image(
        &mut self,
        _guard: &ImagesGuard<'_>,
        name: &str,
    ) -> Result<ImageRecord, StoreError> {
        let image = self.image(name)?;
        let taken = self.write(|transaction| {
            let sql = "DELETE FROM image_names WHERE name = ?1";
            Ok(transaction.execute(sql, [name])? > 0)
        })?;
        if !taken {
            // An id, or the beginning of one.
            return Err(StoreError::NotFound {
                kind: "image",
                selector: name.to_owned(),
                nearest: None,
            });
        }
        self.image(image.id.as_str())
    }

    /// Deletes an image that no VM uses: the row, then the files, which go when the trash is
    /// dropped; drop the guard first.
    ///
    /// # Errors
    /// [`StoreError::InUse`] with the names of the VMs.
    pub fn delete_image(
        &mut self,
        _guard: &ImagesGuard<'_>,
        id: &ImageId,
    ) -> Result<Trash, StoreError> {
        let deleted = self.write(|transaction| {
            transaction.execute("DELETE FROM images WHERE id = ?1", [id.as_str()])
        });
        if deleted.as_ref().is_err_and(StoreError::is_foreign_key) {
            return Err(StoreError::InUse {
                kind: "image",
                name: id.to_string(),
                users: self.vms_that_use("image", id.as_str())?,
            });
        }
        deleted?;
        // After the row: what no image needs may be collected, not the other way round.
        self.drop_root(id)?;
        move_to_trash(self.context(), &self.context().image(id))
    }
}

/// Without the tag that everybody leaves out; it would make short names look alike.
fn untagged(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

pub(crate) const IMAGES: Table<ImageRecord> = Table {
    kind: "image",
    name: "images",
    select: "SELECT id, digest, source, architecture, filesystem, size, used, config, created_ms, kernel,
        (SELECT json_group_array(name) FROM (SELECT name FROM image_names WHERE image = images.id ORDER BY name))
        FROM images",
    by_name: "id = (SELECT image FROM image_names WHERE name = ?1)",
    names: "SELECT name FROM image_names ORDER BY name",
    name_of: "SELECT name FROM image_names WHERE image = ?1 ORDER BY name",
    read: image,
};

fn image(row: &Row<'_>) -> Result<ImageRecord, Box<dyn std::error::Error>> {
    Ok(ImageRecord {
        schema: SCHEMA,
        id: ImageId::try_from(row.get::<_, String>(0)?)?,
        digest: Digest::try_from(row.get::<_, String>(1)?)?,
        source: row.get(2)?,
        architecture: row.get(3)?,
        filesystem: row.get(4)?,
        size: ByteSize(row.get::<_, i64>(5)?.cast_unsigned()),
        used: ByteSize(row.get::<_, i64>(6)?.cast_unsigned()),
        config: serde_json::from_str(&row.get::<_, String>(7)?)?,
        created_ms: row.get::<_, i64>(8)?.cast_unsigned(),
        kernel: row
            .get::<_, Option<String>>(9)?
            .map(KernelId::try_from)
            .transpose()?,
        names: serde_json::from_str(&row.get::<_, String>(10)?)?,
        changed: false,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::schema::tests::context;
    use crate::{Locks, Staged, VmGuard};

    pub(crate) fn new_image(byte: u8) -> NewImage {
        NewImage {
            digest: Digest::from_sha256([byte; 32]),
            source: "test".into(),
            architecture: "amd64".into(),
            filesystem: "ext4".into(),
            size: ByteSize(10),
            used: ByteSize(5),
            config: OciConfig {
                env: vec!["A=b".into()],
                ..OciConfig::default()
            },
            kernel: None,
        }
    }

    #[test]
    fn an_image_is_published_found_renamed_and_deleted() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut store = Store::open(&context).unwrap();
        let mut locks = Locks::new(&context, |_, _| {});
        let guard = locks.images().unwrap();

        let staged = Staged::new(&context).unwrap();
        std::fs::write(staged.path().join("rootfs.img"), "disk").unwrap();
        let first = store
            .publish_image(
                &guard,
                staged.complete().unwrap(),
                &new_image(1),
                Some("alpine:latest"),
            )
            .unwrap();
        assert!(context.image_disk(&first.id).exists());
        let unchanged = ImageRecord {
            changed: false,
            ..first.clone()
        };
        for selector in [
            "alpine",
            "docker.io/library/alpine:latest",
            first.id.as_str(),
            &first.id.as_str()[..6],
        ] {
            assert_eq!(store.image(selector).unwrap(), unchanged, "{selector}");
        }

        let staged = Staged::new(&context).unwrap();
        let second = store
            .publish_image(
                &guard,
                staged.complete().unwrap(),
                &new_image(2),
                Some("alpine:latest"),
            )
            .unwrap();
        assert_eq!(store.image("alpine").unwrap().id, second.id);
        assert!(store.image(first.id.as_str()).unwrap().names.is_empty());
        assert!(store.name_image(&guard, &first.id, "old:1").unwrap());
        assert!(!store.name_image(&guard, &first.id, "old:1").unwrap());
        store.name_image(&guard, &first.id, "older:1").unwrap();
        let unnamed = store.unname_image(&guard, "older:1").unwrap();
        assert_eq!((&unnamed.id, unnamed.names.len()), (&first.id, 1));
        for no_name in ["older:1", first.id.as_str()] {
            let refused = store.unname_image(&guard, no_name).unwrap_err();
            assert!(matches!(refused, StoreError::NotFound { .. }), "{refused}");
        }

        let trash = store.delete_image(&guard, &first.id).unwrap();
        assert!(!context.image(&first.id).exists());
        drop(trash);
        assert_eq!(std::fs::read_dir(context.trash()).unwrap().count(), 0);
        let error = store.image("alpnie").unwrap_err();
        assert!(matches!(error, StoreError::NotFound { nearest: Some(n), .. } if n == "alpine"));
    }

    #[test]
    fn a_final_directory_without_a_row_is_swept_unless_somebody_publishes() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let store = Store::open(&context).unwrap();
        let orphan = context.data().join("images/00000000000000aa");
        std::fs::create_dir(&orphan).unwrap();
        let mut locks = Locks::new(&context, |_, _| {});
        let guard = locks.images().unwrap();
        store.sweep_leftovers().unwrap();
        assert!(orphan.exists(), "its row may come at any moment");
        drop(guard);
        store.sweep_leftovers().unwrap();
        assert!(!orphan.exists());
        assert_eq!(std::fs::read_dir(context.trash()).unwrap().count(), 0);
    }

    #[test]
    fn the_guard_of_a_vm_gives_the_images_lock() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut store = Store::open(&context).unwrap();
        let mut locks = Locks::new(&context, |_, _| {});
        let mut vm: VmGuard<'_> = locks.vm(&lib_model::VmId::random().unwrap()).unwrap();
        let images = vm.images().unwrap();
        store
            .publish_image(
                &images,
                Staged::new(&context).unwrap().complete().unwrap(),
                &new_image(1),
                None,
            )
            .unwrap();
    }
}
