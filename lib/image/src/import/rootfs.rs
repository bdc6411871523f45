//! A root file system as tar becomes an OCI image of one layer, kept as it came.

use std::io::{self, Read};
use std::sync::Arc;

use lib_model::Digest;
use sha2::{Digest as _, Sha256};

use super::docker::{layer_type, plan};
use super::{Found, Import};
use crate::Error;
use crate::blob_writer::{BlobWriter, HashWriter};
use crate::config::ImageConfig;
use crate::layer::{compression, unpack};
use crate::limits::Unpacked;
use crate::manifest::{Descriptor, OCI_CONFIG};

/// Reads the stream once: what comes goes into a blob, and through the decompressor into the
/// diff-id.
///
/// # Errors
/// [`Error::Archive`] for damaged compression, [`Error::Limit`], [`Error::Io`].
pub(super) fn import(import: &mut Import<'_>, raw: impl Read, what: &str) -> Result<Found, Error> {
    let limits = &import.request.limits;
    let mut tee = Tee {
        inner: raw,
        writer: BlobWriter::new(import.pins.staged(), "rootfs")?,
        start: Vec::new(),
    };
    let failed = |source: io::Error| match source.downcast::<Error>() {
        Ok(ours) => ours,
        Err(source) => Error::Archive {
            what: what.to_owned(),
            source,
        },
    };
    let mut hasher = HashWriter::default();
    let unpacked = Arc::new(Unpacked::default());
    let mut tar = unpack(&mut tee, what, unpacked, limits).map_err(failed)?;
    io::copy(&mut tar, &mut hasher).map_err(failed)?;
    drop(tar);
    let media_type = layer_type(compression(&tee.start), || what.to_owned())?;
    let size = tee.writer.written();
    let layer = Descriptor::new(&media_type, tee.writer.digest(), size);
    import.pin([&layer.digest])?;
    tee.writer.commit(&import.pins, import.blobs)?;
    let config = ImageConfig {
        platform: import.request.platform.clone(),
        run: import.request.run.clone(),
        diff_ids: vec![hasher.digest()],
    };
    let config_json = config.to_json()?;
    let digest = Digest::from_sha256(Sha256::digest(&config_json).into());
    import.pin([&digest])?;
    import.blobs.store(&import.pins, &config_json)?;
    let config_blob = Descriptor::new(OCI_CONFIG, digest, config_json.len() as u64);
    let source = import.source("root file system", what);
    let plan = plan(
        import,
        config_blob,
        vec![layer],
        config_json,
        config,
        what,
        source,
    )?;
    Ok(Found {
        plan,
        names: Vec::new(),
    })
}

/// Writes what is read from `inner` into a blob.
struct Tee<R> {
    inner: R,
    writer: BlobWriter,
    start: Vec<u8>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = &buffer[..count];
        if self.start.len() < 8 {
            self.start.extend_from_slice(&bytes[..count.min(8)]);
        }
        self.writer.write(bytes).map_err(io::Error::other)?;
        Ok(count)
    }
}
