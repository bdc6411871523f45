//! The end of every pull and import, and deletion: what happens under the images lock.

use lib_model::{Digest, Filesystem, ImageRecord, Reference};
use lib_store::{Locks, NewImage, Staged, Store, StoreError};

use crate::blobs::Blobs;
use crate::manifest::Descriptor;
use crate::{Error, Size};

/// What makes two images the same: the content, the file system, and the size when one was asked
/// for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) digest: &'a Digest,
    /// Of an image that has one, which other tools find by it.
    pub(crate) manifest: Option<&'a Descriptor>,
    pub(crate) size: Size,
    pub(crate) filesystem: Filesystem,
}

impl<'a> Wanted<'a> {
    /// Of an image that has a manifest.
    pub(crate) fn of(manifest: &'a Descriptor, size: Size, filesystem: Filesystem) -> Self {
        Wanted {
            digest: &manifest.digest,
            manifest: Some(manifest),
            size,
            filesystem,
        }
    }
}

/// An image with this manifest, file system and size that is complete in the store.
pub(crate) fn existing(store: &Store, wanted: Wanted<'_>) -> Result<Option<ImageRecord>, Error> {
    let digest = wanted.digest;
    let usable = |image: &ImageRecord| {
        image.filesystem == wanted.filesystem.as_str()
            && wanted.size.fits(&store.context().image(&image.id))
            && store.context().image_disk(&image.id).is_file()
    };
    match store.image_by_digest(digest)? {
        Some(newest) if usable(&newest) => Ok(Some(newest)),
        None => Ok(None),
        Some(_) => {
            let mut images = store.images()?.into_iter();
            Ok(images.find(|image| image.digest == *digest && usable(image)))
        }
    }
}

/// Publishes what was built, or names the equal image that another command published meanwhile.
///
/// # Errors
/// When the store refuses; nothing is published then.
pub(crate) fn publish(
    store: &mut Store,
    locks: &mut Locks,
    staged: Staged,
    new: &NewImage,
    wanted: Wanted<'_>,
    name: Option<&str>,
) -> Result<ImageRecord, Error> {
    if existing(store, wanted)?.is_some() {
        drop(staged);
        return name_existing(store, locks, wanted, name)?
            .ok_or_else(|| Error::malformed("the store", "an image vanished while it was named"));
    }
    let staged = staged.complete()?;
    let blobs = Blobs::open(store.context())?;
    let guard = locks.images()?;
    let record = match existing(store, wanted)? {
        // Published between the look above and the lock; the staged copy is dropped later.
        Some(there) => rename(store, &guard, &there, name)?,
        None => store.publish_image(&guard, staged, new, name)?,
    };
    if let Some(manifest) = wanted.manifest {
        blobs.name(&guard, manifest, name)?;
    }
    Ok(record)
}

/// Points a name to the image that is here already; none when it is not here.
///
/// # Errors
/// When the store refuses.
pub(crate) fn name_existing(
    store: &mut Store,
    locks: &mut Locks,
    wanted: Wanted<'_>,
    name: Option<&str>,
) -> Result<Option<ImageRecord>, Error> {
    if existing(store, wanted)?.is_none() {
        return Ok(None);
    }
    let blobs = Blobs::open(store.context())?;
    let guard = locks.images()?;
    // It may have been deleted before the lock was ours.
    let Some(there) = existing(store, wanted)? else {
        return Ok(None);
    };
    let record = rename(store, &guard, &there, name)?;
    if let (true, Some(manifest)) = (record.changed, wanted.manifest) {
        blobs.name(&guard, manifest, name)?;
    }
    Ok(Some(record))
}

fn rename(
    store: &mut Store,
    guard: &lib_store::ImagesGuard<'_>,
    image: &ImageRecord,
    name: Option<&str>,
) -> Result<ImageRecord, Error> {
    let changed = match name {
        Some(name) => store.name_image(guard, &image.id, name)?,
        None => false,
    };
    Ok(ImageRecord {
        changed,
        ..store.image(image.id.as_str())?
    })
}

/// Gives an image another name; a name that another image has moves here.
///
/// # Errors
/// When there is no such image.
pub fn tag(
    store: &mut Store,
    locks: &mut Locks,
    selector: &str,
    name: &Reference,
) -> Result<ImageRecord, Error> {
    let guard = locks.images()?;
    let image = store.image(selector)?;
    rename(store, &guard, &image, Some(&name.familiar()))
}

/// Takes a name from the image that has it, which stays, under its other names and its id.
///
/// # Errors
/// [`lib_store::StoreError::NotFound`].
pub fn untag(store: &mut Store, locks: &mut Locks, name: &Reference) -> Result<ImageRecord, Error> {
    let guard = locks.images()?;
    let image = store.unname_image(&guard, &name.familiar())?;
    Ok(ImageRecord {
        changed: true,
        ..image
    })
}

/// Deletes an image that no VM uses, with all its names. Its layers stay in the blobs, for pulls
/// of images that share them, until they are collected.
///
/// # Errors
/// [`lib_store::StoreError::NotFound`], [`lib_store::StoreError::InUse`] with the VMs' names.
pub fn delete(store: &mut Store, locks: &mut Locks, selector: &str) -> Result<ImageRecord, Error> {
    let blobs = Blobs::open(store.context())?;
    let guard = locks.images()?;
    let image = store.image(selector)?;
    let trash = store
        .delete_image(&guard, &image.id)
        .map_err(|error| match error {
            StoreError::InUse { kind, users, .. } => StoreError::InUse {
                kind,
                name: selector.to_owned(),
                users,
            },
            error => error,
        })?;
    if store.image_by_digest(&image.digest)?.is_none() {
        blobs.retain(&guard, |digest| *digest != image.digest)?;
    }
    drop(guard);
    drop(trash);
    Ok(ImageRecord {
        changed: true,
        ..image
    })
}
