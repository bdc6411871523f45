//! Removing what no image needs: blobs, and blobs that never became whole.
//!
//! See [`crate::pins`] for what keeps the blobs of a pull under way, and [`crate::claim`] for what
//! keeps those that arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use banger_failpoint::{passed, point};
use lib_model::{BlobRecord, BlobState, ByteSize, Digest, ImageRecord, SCHEMA};
use lib_store::{Context, Locks, Staged, Store};

use crate::blobs::{Blobs, digest_of};
use crate::claim::{self, Claim, Thing};
use crate::local::manifest_of;
use crate::pins::Pins;
use crate::{Error, Limits, partial};

/// A blob that is not whole is kept so long for another attempt.
pub const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

/// Blobs removed under one hold of the lock; a thousand took 157 ms.
const BATCH: usize = 100;

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
/// Whoever publishes an image meanwhile waits for a batch, and not for all.
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
    // What was parsed and listed before the lock is neither under it. What comes later is the next
    // collection's.
    let mut users = Users::default();
    users.set(&blobs, &store.images()?);
    let mut unused = blobs.all()?;
    unused.retain(|(digest, _)| users.of(digest).is_empty());
    let mut gone = Vec::new();
    let mut rest = &unused[..];
    loop {
        let (batch, later) = rest.split_at(rest.len().min(BATCH));
        gone.extend(collect_batch(store, locks, &mut users, batch, what)?);
        if later.is_empty() {
            break;
        }
        passed("collect.next");
        rest = later;
    }
    gone.extend(collect_partial(context, what)?);
    Ok(gone)
}

/// Decides and removes under one hold of the lock `images`.
fn collect_batch(
    store: &Store,
    locks: &mut Locks,
    users: &mut Users,
    batch: &[(Digest, u64)],
    what: &Collected,
) -> Result<Vec<BlobRecord>, Error> {
    let blobs = Blobs::open(store.context())?;
    // Under staging, where a killed command's files are swept. It goes after the lock, as unlinking
    // large files takes time; and then whoever waits for the lock has it.
    let trash = Staged::new(store.context())?;
    let guard = locks.images()?;
    users.set(&blobs, &store.images()?);
    let pinned = Pins::all(&trash)?;
    if !what.dry_run {
        blobs.retain(&guard, |digest| users.has_manifest(digest))?;
    }
    let mut gone = Vec::new();
    for (digest, size) in batch {
        if !users.of(digest).is_empty() || pinned.contains(digest) {
            continue;
        }
        if !what.dry_run {
            let path = blobs.path(digest);
            let removed = point("blob.remove")
                .and_then(|()| fs::rename(&path, trash.path().join(digest.hex())));
            match removed {
                // Another collection was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                removed => removed.map_err(Error::io("remove", path))?,
            }
        }
        gone.push(record(
            digest.clone(),
            *size,
            BlobState::Unused,
            Vec::new(),
            !what.dry_run,
        ));
    }
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
    users.set(&blobs, &store.images()?);
    let mut records = Vec::new();
    for (digest, size) in blobs.all()? {
        let images = users.of(&digest);
        let state = match images.is_empty() {
            true => BlobState::Unused,
            false => BlobState::Used,
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
    /// Manifests of images, and the images' names.
    names: BTreeMap<Digest, Vec<String>>,
    /// Blobs, the manifests too, and the manifests that refer to them.
    manifests: BTreeMap<Digest, BTreeSet<Digest>>,
    parsed: BTreeSet<Digest>,
}

impl Users {
    /// Those of exactly these images. Manifests never change: each is parsed once.
    fn set(&mut self, blobs: &Blobs, images: &[ImageRecord]) {
        // A limit would only make a manifest that was taken once unreadable.
        let limits = Limits {
            layers: usize::MAX,
            ..Limits::default()
        };
        self.names.clear();
        for image in images {
            let name = image.names.first().map_or(image.id.as_str(), |name| name);
            let names = self.names.entry(image.digest.clone()).or_default();
            names.push(name.to_owned());
            if !self.parsed.insert(image.digest.clone()) {
                continue;
            }
            let mut has = vec![image.digest.clone()];
            // An image whose manifest is gone or damaged keeps nothing but that.
            if let Ok((manifest, _)) = manifest_of(blobs, &image.digest, &limits) {
                has.push(manifest.config.digest);
                has.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            }
            for blob in has {
                let manifests = self.manifests.entry(blob).or_default();
                manifests.insert(image.digest.clone());
            }
        }
    }

    /// Names of the images that have a blob; empty when no image has it.
    fn of(&self, blob: &Digest) -> Vec<String> {
        let manifests = self.manifests.get(blob).into_iter().flatten();
        manifests
            .filter_map(|manifest| self.names.get(manifest))
            .flatten()
            .cloned()
            .collect()
    }

    fn has_manifest(&self, digest: &Digest) -> bool {
        self.names.contains_key(digest)
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
            point("partial.remove")
                .and_then(|()| fs::remove_file(&path))
                .map_err(Error::io("remove", &path))?;
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
