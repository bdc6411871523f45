//! Whether there is room, before anything is downloaded.

use std::path::Path;

use lib_model::ByteSize;
use nix::sys::statvfs::statvfs;

use crate::Error;
use crate::manifest::Descriptor;

/// What compressed layers unpack to, at the least that is usual. Real ones have 2 to 4: an estimate
/// that is too high would refuse what fits.
const UNPACKS_TO: u64 = 2;

/// Bytes that an image will take: its layers that are not here, and its file system.
pub(crate) fn estimate(layers: &[Descriptor], missing: u64) -> u64 {
    let unpacked = layers.iter().map(|layer| {
        let packed = layer.media_type.ends_with("gzip") || layer.media_type.ends_with("zstd");
        self::unpacked(layer.size, packed)
    });
    unpacked.fold(missing, u64::saturating_add)
}

/// Bytes that so many bytes will be, when they are compressed or not.
pub(crate) fn unpacked(bytes: u64, packed: bool) -> u64 {
    bytes.saturating_mul(if packed { UNPACKS_TO } else { 1 })
}

/// # Errors
/// [`Error::NoSpace`] when less than `needed` bytes are free for us where `path` is.
pub(crate) fn check(path: &Path, what: &str, needed: u64) -> Result<(), Error> {
    let status = statvfs(path)
        .map_err(|error| Error::io("look at the free space of", path)(error.into()))?;
    let free = status
        .blocks_available()
        .saturating_mul(status.fragment_size());
    if needed <= free {
        return Ok(());
    }
    Err(Error::NoSpace {
        what: what.to_owned(),
        path: path.to_owned(),
        needed: ByteSize(needed),
        free: ByteSize(free),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_model::Digest;

    #[test]
    fn an_estimate_counts_what_is_missing_and_what_it_unpacks_to() {
        let layer = |kind: &str, size| Descriptor::new(kind, Digest::from_sha256([0; 32]), size);
        let layers = [
            layer("x.tar+gzip", 10),
            layer("x.tar", 5),
            layer("y.tar.zstd", u64::MAX),
        ];
        assert_eq!(estimate(&layers[..2], 7), 32);
        assert_eq!(estimate(&layers, 7), u64::MAX);
    }
}
