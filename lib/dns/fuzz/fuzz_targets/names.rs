//! Any bytes as the file of names.

#![no_main]

#[path = "../../tests/common/target.rs"]
#[allow(dead_code)]
mod target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    target::file(bytes);
});
