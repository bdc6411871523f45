//! What keeps blobs from being collected while an image is made of them.
//!
//! The collector removes what neither an image nor a pin refers to, and it decides and removes
//! under the `images` lock. A pull or import pins, under the same lock, every blob that it will
//! read or write, and only then looks which are here. So either the collector sees the pin, or the
//! look comes after the removal and finds the blob missing. Pins last until the image is published,
//! which takes the lock again: there is no moment with neither.
//!
//! They are a file in staging, so they end with the process that made them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use banger_failpoint::point;
use lib_model::Digest;
use lib_store::{Context, Locks, Staged};

use crate::Error;

const FILE: &str = "pins";

/// The pins of one command.
pub(crate) struct Pins {
    staged: Staged,
    pinned: BTreeSet<Digest>,
}

impl Pins {
    /// None yet.
    ///
    /// # Errors
    /// When there is no place for them.
    pub(crate) fn new(context: &Context) -> Result<Self, Error> {
        Ok(Pins {
            staged: Staged::new(context)?,
            pinned: BTreeSet::new(),
        })
    }

    /// Pins these too. Takes the `images` lock for the time of a short write.
    ///
    /// # Errors
    /// When the lock cannot be taken or the file cannot be written; then nothing more is pinned.
    pub(crate) fn pin<'a>(
        &mut self,
        locks: &mut Locks,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<(), Error> {
        let mut pinned = self.pinned.clone();
        pinned.extend(digests.into_iter().cloned());
        let mut text = String::new();
        for digest in &pinned {
            text += digest.as_str();
            text.push('\n');
        }
        let path = self.staged.path().join(FILE);
        let _guard = locks.images()?;
        point("pins.write")
            .and_then(|()| fs::write(&path, text))
            .map_err(Error::io("write", &path))?;
        self.pinned = pinned;
        Ok(())
    }

    /// Whether a blob is pinned: nobody may count on one that is not.
    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.pinned.contains(digest)
    }

    /// A directory that ends with the pins.
    pub(crate) fn staged(&self) -> &Staged {
        &self.staged
    }

    /// Pins of all commands; those of dead ones too, until they are swept.
    ///
    /// # Errors
    /// A file that is there and cannot be read: nothing can be collected then.
    pub(crate) fn all(staged: &Staged) -> Result<BTreeSet<Digest>, Error> {
        let staging = staged.path().parent().unwrap_or(staged.path());
        let mut pinned = BTreeSet::new();
        for entry in fs::read_dir(staging).map_err(Error::io("read", staging))? {
            let entry = entry.map_err(Error::io("read", staging))?;
            let path = entry.path().join(FILE);
            for line in read(&path)?.lines() {
                pinned.extend(Digest::try_from(line).ok());
            }
        }
        Ok(pinned)
    }
}

/// Empty when there is none: commands come and go meanwhile.
fn read(path: &Path) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(String::new())
        }
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
