//! Directories for what is being made. What a dead process left is swept by the next command.
//!
//! `staging/<id>.lock` is locked before `staging/<id>` is made and removed after it is gone or
//! renamed, so a directory whose lock can be taken, or is missing, belongs to nobody.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use banger_failpoint::{passed, point};
use lib_model::ImageId;
use rusqlite::Transaction;

use crate::{Context, FileLock, Store, StoreError, io_error, private_dir};

/// A directory under `staging/`; removed with everything in it unless it is published.
#[derive(Debug)]
pub struct Staged {
    id: ImageId,
    directory: PathBuf,
    lock_path: PathBuf,
    _lock: FileLock,
}

/// What this process is making.
static STAGED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn staged() -> MutexGuard<'static, Vec<PathBuf>> {
    STAGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what this process is making; only when it ends right after that.
pub fn abandon_staging() {
    for directory in staged().drain(..) {
        // Another thread may be writing into it: what stays is swept by the next command.
        for _ in 0..3 {
            if fs::remove_dir_all(&directory).is_ok() {
                break;
            }
        }
        let _ = fs::remove_file(directory.with_extension("lock"));
    }
}

impl Staged {
    /// A new empty directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(context: &Context) -> Result<Self, StoreError> {
        let base = context.staging();
        point("staging.create").map_err(io_error("create a directory in", &base))?;
        loop {
            let id = ImageId::random().map_err(io_error("name a directory in", &base))?;
            let lock_path = base.join(format!("{id}.lock"));
            let lock = FileLock::try_take(&lock_path).map_err(io_error("lock", &lock_path))?;
            // A sweeper may have taken and removed the file between its creation and our lock.
            let Some(lock) = lock.filter(|lock| lock.is_at(&lock_path)) else {
                continue;
            };
            let directory = base.join(id.as_str());
            private_dir(&directory)?;
            staged().push(directory.clone());
            return Ok(Staged {
                id,
                directory,
                lock_path,
                _lock: lock,
            });
        }
    }

    /// The id of the image that is published from here. As long as this is staged, nobody removes its
    /// [`Context::image_root`].
    pub fn image_id(&self) -> &ImageId {
        &self.id
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory's own entries durable. Its files must be synced already.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub fn complete(self) -> Result<Complete, StoreError> {
        sync_directory(&self.directory)?;
        Ok(Complete(self))
    }
}

/// A staged directory that is durable: nothing slow but the rename is left for whoever holds a lock.
#[derive(Debug)]
pub struct Complete(Staged);

impl Complete {
    /// See [`Staged::image_id`].
    pub(crate) fn image_id(&self) -> &ImageId {
        self.0.image_id()
    }

    fn publish(self, target: &Path) -> Result<(), StoreError> {
        point("staging.publish")
            .and_then(|()| fs::rename(&self.0.directory, target))
            .map_err(io_error("publish", target))?;
        passed("staging.published");
        if let Some(parent) = target.parent() {
            sync_directory(parent)?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        passed("staging.drop");
        staged().retain(|directory| *directory != self.directory);
        // What cannot be removed now is swept by the next command.
        let _ = fs::remove_dir_all(&self.directory);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes what dead processes left in `staging/` and everything in `trash/`.
pub(crate) fn sweep(context: &Context) {
    let staging = context.staging();
    for entry in fs::read_dir(&staging).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let id = name.strip_suffix(".lock").unwrap_or(name);
        let lock_path = staging.join(format!("{id}.lock"));
        if !lock_path.exists() {
            let _ = fs::remove_dir_all(staging.join(id));
        } else if let Ok(Some(_lock)) = FileLock::try_take(&lock_path) {
            let _ = fs::remove_dir_all(staging.join(id));
            let _ = fs::remove_file(&lock_path);
        }
    }
    for entry in fs::read_dir(context.trash())
        .into_iter()
        .flatten()
        .flatten()
    {
        let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
    }
}

/// What was deleted; its files are unlinked when this is dropped, or by the next command.
#[derive(Debug)]
#[must_use = "drop it after the lock: unlinking a large file takes time"]
pub struct Trash(Option<PathBuf>);

impl Drop for Trash {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && point("trash.unlink").is_ok()
        {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Moves a published directory out of the way. A missing one is as good.
pub(crate) fn move_to_trash(context: &Context, path: &Path) -> Result<Trash, StoreError> {
    let id = ImageId::random().map_err(io_error("name a directory in", &context.trash()))?;
    let target = context.trash().join(id.as_str());
    match point("trash.move").and_then(|()| fs::rename(path, &target)) {
        Ok(()) => Ok(Trash(Some(target))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Trash(None)),
        Err(source) => Err(StoreError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
    }
}

impl Store {
    /// Removes what dead processes left half-made or half-deleted; each command does it when it opens the
    /// store.
    ///
    /// # Errors
    /// When the database cannot be read, or a directory not be moved.
    pub fn sweep_leftovers(&self) -> Result<(), StoreError> {
        for (table, lock) in [
            ("images", "images"),
            ("kernels", "images"),
            ("vms", "create"),
        ] {
            if !self.orphans(table)?.is_empty() {
                self.sweep_orphans(table, lock)?;
            }
        }
        if !self.unneeded_roots()?.is_empty() {
            self.sweep_roots()?;
        }
        sweep(self.context());
        Ok(())
    }

    /// Removes the root of an image that has no row any more.
    pub(crate) fn drop_root(&self, id: &ImageId) -> Result<(), StoreError> {
        let root = self.context().image_root(id);
        match point("root.remove").and_then(|()| fs::remove_file(&root)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io_error("remove", &root)(error))
            }
            _ => Ok(()),
        }
    }

    /// Roots of images that have no row, and of which nobody knows whether they will.
    fn unneeded_roots(&self) -> Result<Vec<ImageId>, StoreError> {
        let entries = fs::read_dir(self.context().roots());
        let names = entries.into_iter().flatten().flatten();
        let mut roots: Vec<ImageId> = names
            .filter_map(|entry| ImageId::try_from(entry.file_name().to_str()?).ok())
            .collect();
        if !roots.is_empty() {
            let known: HashSet<String> = self.ids("images")?.into_iter().collect();
            roots.retain(|id| !known.contains(id.as_str()));
        }
        Ok(roots)
    }

    /// An image is published under the lock, from a staging directory that its maker has locked: under the first, a
    /// root with neither row nor maker has no image to come.
    fn sweep_roots(&self) -> Result<(), StoreError> {
        let path = self.context().locks().join("images");
        let Some(_lock) = FileLock::try_take(&path).map_err(io_error("lock", &path))? else {
            return Ok(());
        };
        for id in self.unneeded_roots()? {
            let lock_path = self.context().staging().join(format!("{id}.lock"));
            if !FileLock::is_held(&lock_path) {
                self.drop_root(&id)?;
            }
        }
        Ok(())
    }

    /// Renames staging to `target` and then writes its row. The caller holds the lock of the table.
    pub(crate) fn publish<T>(
        &mut self,
        staged: Complete,
        target: &Path,
        insert: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        staged.publish(target)?;
        let inserted = self.write(insert);
        if inserted.is_err() {
            // The first error is the one that helps; what stays is swept by the next command.
            let _ = move_to_trash(self.context(), target);
        }
        inserted
    }

    /// Directories in `table`'s folder that have no row: their process died between rename and row, or
    /// between row and rename; or it is there just now.
    fn orphans(&self, table: &'static str) -> Result<Vec<PathBuf>, StoreError> {
        let directory = self.context().data().join(table);
        let entries: Vec<String> = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let known: HashSet<String> = self.ids(table)?.into_iter().collect();
        let orphans = entries.into_iter().filter(|id| !known.contains(id));
        Ok(orphans.map(|id| directory.join(id)).collect())
    }

    /// Under the lock of the table nobody is between rename and row, so an orphan is one. When
    /// somebody holds it, a later command will look again.
    fn sweep_orphans(&self, table: &'static str, lock: &str) -> Result<(), StoreError> {
        let path = self.context().locks().join(lock);
        let Some(_lock) = FileLock::try_take(&path).map_err(io_error("lock", &path))? else {
            return Ok(());
        };
        for orphan in self.orphans(table)? {
            // Unlinked by the sweep that follows: not under this lock.
            std::mem::forget(move_to_trash(self.context(), &orphan)?);
        }
        Ok(())
    }
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    point("directory.sync")
        .and_then(|()| File::open(path)?.sync_all())
        .map_err(io_error("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_makes_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let context = Context::from_environment(Some(&base.path().join("s")), |_| None).unwrap();
        context.make_directories().unwrap();
        let living = Staged::new(&context).unwrap();
        fs::write(living.path().join("f"), "x").unwrap();
        let dead = context.staging().join("00000000000000aa");
        fs::create_dir(&dead).unwrap();
        let dead_with_lock = context.staging().join("00000000000000bb");
        fs::create_dir(&dead_with_lock).unwrap();
        fs::write(context.staging().join("00000000000000bb.lock"), "").unwrap();
        sweep(&context);
        assert!(living.path().join("f").exists());
        assert!(!dead.exists() && !dead_with_lock.exists());
        drop(living);
        assert_eq!(fs::read_dir(context.staging()).unwrap().count(), 0);
    }
}
