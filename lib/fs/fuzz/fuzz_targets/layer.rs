//! Any bytes as layers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lib_fs_fuzz::layer(bytes));
