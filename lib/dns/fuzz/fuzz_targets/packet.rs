//! Any bytes as a packet, and, halved, as a question and what another server says to it.

#![no_main]

use std::sync::LazyLock;

#[path = "../../tests/common/target.rs"]
#[allow(dead_code)]
mod target;

static TABLE: LazyLock<lib_dns::Table> = LazyLock::new(target::table);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    target::packet(&TABLE, bytes);
    let (question, said) = bytes.split_at(bytes.len() / 2);
    target::upstream(&TABLE, question, said);
});
