//! Any bytes as what a caller sends.

#![no_main]

#[path = "../../tests/common/target.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target::request(bytes));
