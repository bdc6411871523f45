//! The checksum of all metadata.

/// CRC-32C without final inversion, as ext4 chains it and EROFS has it.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !::crc32c::crc32c_append(!seed, bytes)
}
