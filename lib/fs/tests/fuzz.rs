//! The fuzz targets with a bounded number of generated inputs; `fuzz/` runs them without bound.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "common/tar.rs"]
mod tar;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn what_is_written_is_sound() {
    let mut runner = TestRunner::new(config(150));
    let sound = std::cell::Cell::new(0);
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    let result = runner.run(&bytes, |bytes| {
        sound.set(sound.get() + u32::from(targets::writer(&bytes)));
        Ok(())
    });
    result.unwrap();
    assert!(sound.get() > 50, "{} of 150 could be written", sound.get());
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn no_bytes_make_the_reader_panic(
        choice in any::<u8>(),
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..6),
    ) {
        let mut bytes = vec![choice];
        for record in records {
            // A header whose checksum is right, with arbitrary bytes where its fields are.
            let mut header = [0; 512];
            for (i, byte) in record.iter().enumerate() {
                header[i * 8 % 509] = *byte;
            }
            header[257..263].copy_from_slice(b"ustar\0");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            bytes.extend_from_slice(&header);
        }
        targets::layer(&bytes);
    }
}
