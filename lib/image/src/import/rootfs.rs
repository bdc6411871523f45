//! A root file system as tar becomes an OCI image of one layer, kept as it came.

use std::io::{self, Read};

use super::docker::{layer_type, plan};
use super::{Found, Import};
use crate::Error;
use crate::blobs::{BlobWriter, HashWriter};
use crate::config::ImageConfig;
use crate::layer::{compression, decompress};
use crate::manifest::{Descriptor, OCI_CONFIG};

/// Reads the stream once: what comes goes into a blob, and through the decompressor into the
/// diff-id.
///
/// # Errors
/// [`Error::Archive`] for damaged compression, [`Error::Limit`], [`Error::Io`].
pub(super) fn import(import: &Import<'_>, raw: impl Read, what: &str) -> Result<Found, Error> {
    let limits = &import.request.limits;
    let mut tee = Tee {
        inner: raw,
        writer: BlobWriter::new(import.staged, "rootfs")?,
        start: Vec::new(),
        limit: limits.layer_bytes,
        what,
    };
    let failed = |source: io::Error| match source.downcast::<Error>() {
        Ok(ours) => ours,
        Err(source) => Error::Archive {
            what: what.to_owned(),
            source,
        },
    };
    let mut hasher = HashWriter::default();
    let mut tar = decompress(&mut tee, what).map_err(failed)?;
    io::copy(&mut tar, &mut hasher).map_err(failed)?;
    drop(tar);
    let media_type = layer_type(compression(&tee.start), || what.to_owned())?;
    let size = tee.writer.written();
    let layer = Descriptor::new(&media_type, tee.writer.commit(import.blobs)?, size);
    let config = ImageConfig {
        platform: import.request.platform.clone(),
        run: import.request.run.clone(),
        diff_ids: vec![hasher.digest()],
    };
    let config_json = config.to_json()?;
    let digest = import.blobs.store(import.staged, &config_json)?;
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
struct Tee<'a, R> {
    inner: R,
    writer: BlobWriter,
    start: Vec<u8>,
    limit: u64,
    what: &'a str,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = &buffer[..count];
        if self.start.len() < 8 {
            self.start.extend_from_slice(&bytes[..count.min(8)]);
        }
        self.writer.write(bytes).map_err(io::Error::other)?;
        if self.writer.written() > self.limit {
            return Err(io::Error::other(Error::Limit {
                what: self.what.to_owned(),
                unit: "bytes",
                found: self.writer.written(),
                limit: self.limit,
            }));
        }
        Ok(count)
    }
}
