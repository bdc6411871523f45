//! Layers that are right, made from any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lib_fs_fuzz::writer(bytes);
});
