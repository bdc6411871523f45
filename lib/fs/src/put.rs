//! Little-endian stores into fixed records.

pub(crate) fn put16(record: &mut [u8], at: usize, value: u16) {
    record[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(record: &mut [u8], at: usize, value: u32) {
    record[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The low and high halves of a value, as ext4 often separates them.
pub(crate) fn put32_split(record: &mut [u8], low: usize, high: usize, value: u64) {
    put32(record, low, value as u32);
    put32(record, high, (value >> 32) as u32);
}

pub(crate) fn put16_split(record: &mut [u8], low: usize, high: usize, value: u32) {
    put16(record, low, value as u16);
    put16(record, high, (value >> 16) as u16);
}

pub(crate) fn put64(record: &mut [u8], at: usize, value: u64) {
    record[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
