//! The blobs of all images, as an OCI image layout that other tools can read (image-spec,
//! image-layout.md).
//!
//! A blob is written elsewhere, synced, then renamed: what is under `blobs/sha256` is whole.
//! `index.json` changes under the images lock only. Blobs that no image has are collected: whoever
//! looks for one, or puts one here, has pinned it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use banger_failpoint::{passed, point};
use lib_model::Digest;
use lib_store::{Context, ImagesGuard, Staged, private_dir};
use sha2::{Digest as _, Sha256};

use crate::blob_writer::{BlobWriter, HashWriter, private_file};
use crate::claim::{self, Claim, Thing};
use crate::manifest::{Descriptor, Index, OCI_INDEX, REF_NAME};
use crate::pins::Pins;
use crate::{Error, Limits};

/// The layout in a store.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the layout, making it when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn open(context: &Context) -> Result<Self, Error> {
        let root = context.blobs();
        private_dir(&root.join("blobs"))?;
        private_dir(&root.join("blobs/sha256"))?;
        let marker = root.join("oci-layout");
        if !marker.exists() {
            // Others may be making it too: each in staging of its own.
            let staged = Staged::new(context)?;
            let new = staged.path().join("oci-layout");
            replace(&new, &marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(Blobs { root })
    }

    /// Where a blob is, or will be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// The blob is here with the right length. Its content is checked when it is used.
    pub(crate) fn has(&self, pins: &Pins, descriptor: &Descriptor) -> bool {
        debug_assert!(pins.holds(&descriptor.digest));
        self.is_here(descriptor)
    }

    /// As [`Blobs::has`], for those who do not count on it later.
    pub(crate) fn is_here(&self, descriptor: &Descriptor) -> bool {
        fs::symlink_metadata(self.path(&descriptor.digest))
            .is_ok_and(|m| m.is_file() && m.len() == descriptor.size)
    }

    /// Reads a small blob and checks it.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], [`Error::Limit`], [`Error::Io`].
    pub(crate) fn read(
        &self,
        digest: &Digest,
        what: &str,
        limits: &Limits,
    ) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
        let length = fs::metadata(&path).map_err(Error::io("open", &path))?.len();
        limits.document(what, length)?;
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        check_digest(&bytes, digest, what)?;
        Ok(bytes)
    }

    /// Stores a small blob.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn store(&self, pins: &Pins, bytes: &[u8]) -> Result<Digest, Error> {
        let mut writer = BlobWriter::new(pins.staged(), "document")?;
        writer.write(bytes)?;
        writer.commit(pins, self)
    }

    /// Takes over a file in staging whose digest is known. One file may be taken over repeatedly.
    ///
    /// # Errors
    /// When it cannot be synced or linked.
    pub(crate) fn adopt(&self, pins: &Pins, staged: &Path, digest: &Digest) -> Result<(), Error> {
        debug_assert!(pins.holds(digest));
        let target = self.path(digest);
        File::open(staged)
            .and_then(|file| file.sync_all())
            .map_err(Error::io("sync", staged))?;
        // Linked under a name of its own first: link(2) replaces nothing, rename(2) does.
        let new = staged.with_extension("adopted");
        point("blob.link")
            .and_then(|()| fs::hard_link(staged, &new))
            .map_err(Error::io("link", staged))?;
        point("blob.adopt")
            .and_then(|()| fs::rename(&new, &target))
            .map_err(Error::io("create", &target))?;
        // rename(2) leaves both names when they are one file already.
        let _ = fs::remove_file(&new);
        sync_parent(&target)
    }

    /// Removes a blob that turned out to be damaged; returns whether it is to be fetched again.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn remove_if_damaged(
        &self,
        context: &Context,
        blob: &Descriptor,
    ) -> Result<bool, Error> {
        // Another command may be putting a good one into its place.
        let directory = claim::directory(context)?;
        let _claim = Claim::take(&directory, Thing::Blob, &blob.digest, &mut |_| {})?;
        if self.is_whole(blob)? {
            return Ok(false);
        }
        let path = self.path(&blob.digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            _ => Ok(true),
        }
    }

    /// The blob is here, with the length and the digest that it should have.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn is_whole(&self, blob: &Descriptor) -> Result<bool, Error> {
        if !self.is_here(blob) {
            return Ok(false);
        }
        let path = self.path(&blob.digest);
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let mut hasher = HashWriter::default();
        io::copy(&mut file, &mut hasher).map_err(Error::io("read", &path))?;
        Ok(hasher.digest() == blob.digest)
    }

    /// Every blob that is here: digest and length.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let directory = self.root.join("blobs/sha256");
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&directory).map_err(Error::io("read", &directory))? {
            let entry = entry.map_err(Error::io("read", &directory))?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(digest_of);
            // Gone between the listing and the look.
            if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                blobs.push((digest, metadata.len()));
            }
        }
        blobs.sort();
        Ok(blobs)
    }

    /// Names a manifest in `index.json`; whatever had the name loses it.
    ///
    /// # Errors
    /// When the index does not parse or cannot be written.
    pub(crate) fn name(
        &self,
        _guard: &ImagesGuard<'_>,
        manifest: &Descriptor,
        name: Option<&str>,
    ) -> Result<(), Error> {
        let mut index = self.index()?;
        let mut entry = manifest.clone();
        entry.annotations.clear();
        if let Some(name) = name {
            entry
                .annotations
                .insert(REF_NAME.to_owned(), name.to_owned());
            index
                .manifests
                .retain(|there| there.annotation(REF_NAME) != Some(name));
        } else if index
            .manifests
            .iter()
            .any(|there| there.digest == entry.digest)
        {
            return Ok(());
        }
        index
            .manifests
            .retain(|there| there.digest != entry.digest || there.annotation(REF_NAME).is_some());
        index.manifests.push(entry);
        self.write_index(&index)
    }

    /// Keeps those manifests in `index.json` that images have.
    ///
    /// # Errors
    /// When the index does not parse or cannot be written.
    pub(crate) fn retain(
        &self,
        _guard: &ImagesGuard<'_>,
        keep: impl Fn(&Digest) -> bool,
    ) -> Result<(), Error> {
        let mut index = self.index()?;
        let before = index.manifests.len();
        index.manifests.retain(|there| keep(&there.digest));
        if index.manifests.len() == before {
            return Ok(());
        }
        self.write_index(&index)
    }

    /// The manifest that `index.json` has under a name.
    ///
    /// # Errors
    /// When the index does not parse.
    pub(crate) fn named(&self, name: &str) -> Result<Option<Descriptor>, Error> {
        let index = self.index()?;
        Ok(index
            .manifests
            .into_iter()
            .find(|there| there.annotation(REF_NAME) == Some(name)))
    }

    fn index(&self) -> Result<Index, Error> {
        let path = self.root.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::malformed(&path.to_string_lossy(), error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index {
                schema_version: 2,
                media_type: OCI_INDEX.to_owned(),
                manifests: Vec::new(),
            }),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    fn write_index(&self, index: &Index) -> Result<(), Error> {
        let path = self.root.join("index.json");
        let bytes = serde_json::to_vec(index)
            .map_err(|error| Error::malformed(&path.to_string_lossy(), error))?;
        // One name for all is enough under the lock, and leaves nothing to sweep.
        replace(&path.with_extension("new"), &path, &bytes)
    }
}

/// The digest that a file name of 64 hexadecimal digits stands for.
pub(crate) fn digest_of(name: &str) -> Option<Digest> {
    Digest::try_from(format!("sha256:{name}")).ok()
}

/// Compares the digest of `bytes`.
///
/// # Errors
/// [`Error::DigestMismatch`].
pub(crate) fn check_digest(bytes: &[u8], expected: &Digest, what: &str) -> Result<(), Error> {
    let actual = Digest::from_sha256(Sha256::digest(bytes).into());
    if actual == *expected {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: what.to_owned(),
        expected: expected.clone(),
        actual,
    })
}

fn replace(new: &Path, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = private_file(new)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", new))?;
    point("layout.replace")
        .and_then(|()| fs::rename(new, path))
        .map_err(Error::io("create", path))?;
    passed("layout.replaced");
    sync_parent(path)
}

pub(crate) fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|d| d.sync_all())
        .map_err(Error::io("sync", parent))
}
