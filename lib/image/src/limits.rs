//! Bounds against hostile images; those of file systems are lib-fs's.

use crate::Error;

/// What an image may ask of this machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one manifest, index or configuration.
    pub document_bytes: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Compressed bytes of all layers together.
    pub layer_bytes: u64,
    /// Of the file system.
    pub filesystem: lib_fs::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            document_bytes: 4 << 20,
            layers: 512,
            layer_bytes: 128 << 30,
            filesystem: lib_fs::Limits::default(),
        }
    }
}

impl Limits {
    pub(crate) fn document(&self, what: &str, bytes: u64) -> Result<(), Error> {
        check(what, "bytes", bytes, self.document_bytes)
    }

    pub(crate) fn layers(&self, what: &str, layers: usize) -> Result<(), Error> {
        check(what, "layers", layers as u64, self.layers as u64)
    }

    pub(crate) fn layer_bytes(&self, what: &str, bytes: u64) -> Result<(), Error> {
        check(what, "bytes of layers", bytes, self.layer_bytes)
    }
}

fn check(what: &str, unit: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::Limit {
        what: what.to_owned(),
        unit,
        found,
        limit,
    })
}
