//! Blobs that arrive. What came is kept under the blob's digest when the download ends early, in
//! this command or another; whether it is right shows when it is whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use banger_failpoint::{passed, point};
use lib_model::Digest;

use crate::Error;
use crate::blob_writer::HashWriter;
use crate::blobs::{Blobs, sync_parent};
use crate::claim::Claim;
use crate::manifest::Descriptor;

const BUFFER: usize = 256 << 10;

/// A blob under way. Only the holder of its claim has one.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    hasher: HashWriter,
    written: u64,
    useless: bool,
    _claim: Claim,
}

impl Partial {
    /// Opens what an earlier command left, or begins; what is longer than the blob is dropped.
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub(crate) fn open(directory: &Path, blob: &Descriptor, claim: Claim) -> Result<Self, Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = path(directory, &blob.digest);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let mut partial = Partial {
            path,
            file,
            hasher: HashWriter::default(),
            written: 0,
            useless: false,
            _claim: claim,
        };
        partial.recall(blob.size)?;
        Ok(partial)
    }

    /// Hashes what is there.
    fn recall(&mut self, size: u64) -> Result<(), Error> {
        let length = self
            .file
            .metadata()
            .map_err(Error::io("read", &self.path))?
            .len();
        if length > size {
            return self.restart();
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path)(error)),
            }
        }
    }

    /// The file that grows.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Appends.
    ///
    /// # Errors
    /// When the file cannot be written. A full disk is not kept fuller than need be: what came is
    /// dropped then.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Err(error) = point("partial.write").and_then(|()| self.file.write_all(bytes)) {
            self.useless |= error.kind() == io::ErrorKind::StorageFull;
            return Err(Error::io("write", &self.path)(error));
        }
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew.
    ///
    /// # Errors
    /// When the file cannot be emptied.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)).map(drop))
            .map_err(Error::io("empty", &self.path))?;
        self.hasher = HashWriter::default();
        self.written = 0;
        Ok(())
    }

    /// Compares digest and length with what was announced.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::TooLong`], [`Error::DigestMismatch`].
    pub(crate) fn check(&self, expected: &Descriptor, what: &str) -> Result<(), Error> {
        crate::blob_writer::check(self.written, &self.hasher, expected, what)
    }

    /// Puts the blob, which was checked, where blobs are.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub(crate) fn publish(self, blobs: &Blobs, digest: &Digest) -> Result<(), Error> {
        let target = blobs.path(digest);
        point("partial.sync")
            .and_then(|()| self.file.sync_all())
            .map_err(Error::io("sync", &self.path))?;
        point("partial.publish")
            .and_then(|()| fs::rename(&self.path, &target))
            .map_err(Error::io("create", &target))?;
        passed("partial.published");
        sync_parent(&target)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // While the claim is held, so that nobody else's file is meant.
        if self.written == 0 || self.useless {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where the beginning of a blob is.
pub(crate) fn path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join(format!("blob-{}", digest.hex()))
}
