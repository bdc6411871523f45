//! Writing a blob while its digest is computed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use lib_model::Digest;
use lib_store::Staged;
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::blobs::{Blobs, sync_parent};
use crate::manifest::Descriptor;
use crate::pins::Pins;

/// A blob that arrives. Dropped without [`BlobWriter::commit`], staging's end removes it.
pub(crate) struct BlobWriter {
    path: PathBuf,
    file: File,
    hasher: HashWriter,
    written: u64,
}

impl BlobWriter {
    /// `name` is unique within `staged`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn new(staged: &Staged, name: &str) -> Result<Self, Error> {
        let path = staged.path().join(name);
        let file = private_file(&path)?;
        Ok(BlobWriter {
            path,
            file,
            hasher: HashWriter::default(),
            written: 0,
        })
    }

    /// Appends.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        point("blob.write")
            .and_then(|()| self.file.write_all(bytes))
            .map_err(Error::io("write", &self.path))?;
        self.hasher.0.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Checks digest and length against `expected`, then stores the blob.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], [`Error::Truncated`], [`Error::TooLong`], [`Error::Io`].
    pub(crate) fn commit_as(
        self,
        pins: &Pins,
        blobs: &Blobs,
        expected: &Descriptor,
        what: &str,
    ) -> Result<(), Error> {
        check(self.written, &self.hasher, expected, what)?;
        self.commit(pins, blobs)?;
        Ok(())
    }

    /// The digest of what came so far.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().digest()
    }

    /// Leaves the file in staging; for what may not be needed.
    pub(crate) fn finish(self) -> (PathBuf, Digest) {
        (self.path, self.hasher.digest())
    }

    /// Stores the blob under the digest it has.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub(crate) fn commit(self, pins: &Pins, blobs: &Blobs) -> Result<Digest, Error> {
        let digest = self.hasher.digest();
        debug_assert!(pins.holds(&digest));
        let target = blobs.path(&digest);
        point("blob.sync")
            .and_then(|()| self.file.sync_all())
            .map_err(Error::io("sync", &self.path))?;
        point("blob.publish")
            .and_then(|()| fs::rename(&self.path, &target))
            .map_err(Error::io("create", &target))?;
        sync_parent(&target)?;
        Ok(digest)
    }
}

/// Counts nothing, hashes all.
#[derive(Clone, Default)]
pub(crate) struct HashWriter(Sha256);

impl HashWriter {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn digest(self) -> Digest {
        Digest::from_sha256(self.0.finalize().into())
    }
}

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compares length and digest with what was announced.
///
/// # Errors
/// [`Error::Truncated`], [`Error::TooLong`], [`Error::DigestMismatch`].
pub(crate) fn check(
    written: u64,
    hasher: &HashWriter,
    expected: &Descriptor,
    what: &str,
) -> Result<(), Error> {
    let what = what.to_owned();
    if written < expected.size {
        return Err(Error::Truncated {
            what,
            expected: expected.size,
            received: written,
        });
    }
    if written > expected.size {
        return Err(Error::TooLong {
            what,
            expected: expected.size,
        });
    }
    let actual = hasher.clone().digest();
    if actual == expected.digest {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what,
        expected: expected.digest.clone(),
        actual,
    })
}

/// A new or emptied file that only we can read.
pub(crate) fn private_file(path: &Path) -> Result<File, Error> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create", path))
}
