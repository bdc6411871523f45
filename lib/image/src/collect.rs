//! Removing what no image needs: blobs, and blobs that never became whole.
//!
//! See [`crate::pins`] for what keeps the blobs of a pull under way, and [`crate::claim`] for what
//! keeps those that arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lib_model::{BlobRecord, BlobState, ByteSize, Digest, ImageRecord, SCHEMA};
use lib_store::{Context, Locks, Staged, Store};

use crate::blobs::{Blobs, digest_of};
use crate::claim::{self, Claim, Thing};
use crate::local::manifest_of;
use crate::pins::Pins;
use crate::{Error, Limits, partial};

/// A blob that is not whole is kept so long for another attempt.
pub const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

/// What is removed.
#[derive(Debug, Clone)]
pub struct Collected {
    /// Nothing is; the same is reported.
    pub dry_run: bool,
    /// Blobs that are not whole go when nothing was added to them for so long.
    pub partial_age: Duration,
}

/// Removes blobs that no image has and nobody is using; returns the records of what went.
///
/// # Errors
/// When the blobs cannot be listed; when a command's pins cannot be read.
pub fn collect(
    store: &Store,
    locks: &mut Locks,
    what: &Collected,
) -> Result<Vec<BlobRecord>, Error> {
    let context = store.context();
    let blobs = Blobs::open(context)?;
    // Under staging, where a killed command's files are swept.
    let trash = Staged::new(context)?;
    // Manifests never change: what was parsed before the lock need not be parsed under it.
    let mut users = Users::default();
    users.add(&blobs, &store.images()?);
    let mut gone = Vec::new();
    {
        let guard = locks.images()?;
        let images = store.images()?;
        users.add(&blobs, &images);
        users.keep(&images);
        let pinned = Pins::all(&trash)?;
        let manifests: BTreeSet<&Digest> = images.iter().map(|image| &image.digest).collect();
        if !what.dry_run {
            blobs.retain(&guard, |digest| manifests.contains(digest))?;
        }
        for (digest, size) in blobs.all()? {
            if users.of(&digest).is_some() || pinned.contains(&digest) {
                continue;
            }
            if !what.dry_run {
                let path = blobs.path(&digest);
                fs::rename(&path, trash.path().join(digest.hex()))
                    .map_err(Error::io("remove", path))?;
            }
            gone.push(record(
                digest,
                size,
                BlobState::Unused,
                Vec::new(),
                !what.dry_run,
            ));
        }
    }
    // Unlinking large files takes time: after the lock.
    drop(trash);
    gone.extend(collect_partial(context, what)?);
    Ok(gone)
}

/// Blobs, whole or not, and what they are for.
///
/// # Errors
/// When they cannot be listed.
pub fn cached(store: &Store) -> Result<Vec<BlobRecord>, Error> {
    let context = store.context();
    let blobs = Blobs::open(context)?;
    let mut users = Users::default();
    users.add(&blobs, &store.images()?);
    let mut records = Vec::new();
    for (digest, size) in blobs.all()? {
        let (state, images) = match users.of(&digest) {
            Some(images) => (BlobState::Used, images),
            None => (BlobState::Unused, Vec::new()),
        };
        records.push(record(digest, size, state, images, false));
    }
    for (digest, size, _) in partial_blobs(&claim::directory(context)?)? {
        records.push(record(digest, size, BlobState::Partial, Vec::new(), false));
    }
    Ok(records)
}

fn record(
    digest: Digest,
    size: u64,
    state: BlobState,
    images: Vec<String>,
    changed: bool,
) -> BlobRecord {
    BlobRecord {
        schema: SCHEMA,
        digest,
        size: ByteSize(size),
        state,
        images,
        changed,
    }
}

/// Which images have which blobs.
#[derive(Default)]
struct Users {
    parsed: BTreeMap<Digest, Vec<Digest>>,
    names: BTreeMap<Digest, Vec<String>>,
}

impl Users {
    fn add(&mut self, blobs: &Blobs, images: &[ImageRecord]) {
        // A limit would only make a manifest that was taken once unreadable.
        let limits = Limits {
            layers: usize::MAX,
            ..Limits::default()
        };
        for image in images {
            let name = image.names.first().map_or(image.id.as_str(), |name| name);
            let names = self.names.entry(image.digest.clone()).or_default();
            if !names.iter().any(|there| there == name) {
                names.push(name.to_owned());
            }
            self.parsed.entry(image.digest.clone()).or_insert_with(|| {
                // An image whose manifest is gone or damaged keeps nothing but itself.
                match manifest_of(blobs, &image.digest, &limits) {
                    Ok((manifest, _)) => {
                        let layers = manifest.layers.into_iter().map(|layer| layer.digest);
                        layers.chain([manifest.config.digest]).collect()
                    }
                    Err(_) => Vec::new(),
                }
            });
        }
    }

    /// Forgets images that are there no more.
    fn keep(&mut self, images: &[ImageRecord]) {
        self.parsed
            .retain(|digest, _| images.iter().any(|image| image.digest == *digest));
    }

    /// Names of the images that have a blob; none when no image has it.
    fn of(&self, blob: &Digest) -> Option<Vec<String>> {
        let mut images = Vec::new();
        let mut used = false;
        for (manifest, blobs) in &self.parsed {
            if manifest == blob || blobs.contains(blob) {
                used = true;
                images.extend(self.names.get(manifest).into_iter().flatten().cloned());
            }
        }
        used.then_some(images)
    }
}

/// Digest, length and last change of the blobs that are not whole.
fn partial_blobs(directory: &Path) -> Result<Vec<(Digest, u64, SystemTime)>, Error> {
    let mut partial = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let entry = entry.map_err(Error::io("read", directory))?;
        let name = entry.file_name();
        let digest = name
            .to_str()
            .and_then(|name| digest_of(name.strip_prefix("blob-")?));
        if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            partial.push((digest, metadata.len(), changed));
        }
    }
    partial.sort();
    Ok(partial)
}

fn collect_partial(context: &Context, what: &Collected) -> Result<Vec<BlobRecord>, Error> {
    let directory = claim::directory(context)?;
    let now = SystemTime::now();
    let mut gone = Vec::new();
    for (digest, _, changed) in partial_blobs(&directory)? {
        // A clock that was set back makes nothing old.
        if now.duration_since(changed).unwrap_or_default() < what.partial_age {
            continue;
        }
        let Ok(_claim) = Claim::try_take(&directory, Thing::Blob, &digest)? else {
            continue;
        };
        let path = partial::path(&directory, &digest);
        // It may have become whole before the claim was ours.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if !what.dry_run {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        let size = metadata.len();
        gone.push(record(
            digest,
            size,
            BlobState::Partial,
            Vec::new(),
            !what.dry_run,
        ));
    }
    Ok(gone)
}
