//! Bounds against hostile images; those of file systems are lib-fs's.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// What an image may ask of this machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one manifest, index or configuration.
    pub document_bytes: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Compressed bytes of all layers together, or of an archive.
    pub layer_bytes: u64,
    /// Unpacked bytes of all layers together.
    pub unpacked_bytes: u64,
    /// Unpacked bytes for each compressed one, in one layer; beyond [`Limits::RATIO_FREE`].
    pub ratio: u32,
    /// Of the file system.
    pub filesystem: lib_fs::Limits,
}

pub(crate) const DOWNLOAD: &str = "bytes of layers";
pub(crate) const UNPACKED: &str = "unpacked bytes";
pub(crate) const RATIO: &str = "unpacked bytes for each compressed one";

impl Default for Limits {
    fn default() -> Self {
        Limits {
            document_bytes: 4 << 20,
            layers: 512,
            layer_bytes: 128 << 30,
            unpacked_bytes: 256 << 30,
            ratio: 200,
            filesystem: lib_fs::Limits::default(),
        }
    }
}

impl Limits {
    /// Files of zeros compress well: a layer may unpack to so many bytes whatever its ratio.
    pub const RATIO_FREE: u64 = 256 << 20;

    /// With what is configured.
    #[must_use]
    pub fn configured(settings: &lib_config::Limits) -> Self {
        let mut limits = Limits::default();
        if let Some(size) = settings.download {
            limits.layer_bytes = size.0;
        }
        if let Some(size) = settings.unpacked {
            limits.unpacked_bytes = size.0;
            limits.filesystem.content_bytes = size.0;
        }
        if let Some(entries) = settings.entries {
            limits.filesystem.entries = entries;
        }
        if let Some(ratio) = settings.ratio {
            limits.ratio = ratio;
        }
        limits
    }

    pub(crate) fn document(&self, what: &str, bytes: u64) -> Result<(), Error> {
        check(what, "bytes", bytes, self.document_bytes)
    }

    pub(crate) fn layers(&self, what: &str, layers: usize) -> Result<(), Error> {
        check(what, "layers", layers as u64, self.layers as u64)
    }

    pub(crate) fn layer_bytes(&self, what: &str, bytes: u64) -> Result<(), Error> {
        check(what, DOWNLOAD, bytes, self.layer_bytes)
    }
}

/// Counts what layers unpack to, while they do.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    total: AtomicU64,
}

impl Unpacked {
    /// So many bytes more came out of a layer, `unpacked` in all, of `packed` that went in.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub(crate) fn count(
        &self,
        what: &str,
        more: u64,
        (packed, unpacked): (u64, u64),
        limits: &Limits,
    ) -> Result<(), Error> {
        let total = self.total.fetch_add(more, Ordering::Relaxed) + more;
        check(what, UNPACKED, total, limits.unpacked_bytes)?;
        if unpacked <= Limits::RATIO_FREE {
            return Ok(());
        }
        check(
            what,
            RATIO,
            unpacked / packed.max(1),
            u64::from(limits.ratio),
        )
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
