//! Random stacks of layers: what is on the disk, by readers that share nothing with the writers,
//! is what applying the layers bottom-up to a tree in memory gives.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod entries;
mod read;
mod tree;

use common::{fsck, fsck_erofs, try_build};
use entries::Op;
use lib_fs::{Compression, Format, Options};
use proptest::prelude::*;
use tree::Model;

fn agree(
    stack: &[Vec<Op>],
    format: Format,
    journal: bool,
    check: bool,
) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut layers = Vec::new();
    for ops in stack {
        layers.insert(0, model.apply(ops).end());
    }
    let options = Options {
        format,
        journal,
        ..Options::default()
    };
    let (image, summary) = try_build(&layers, &options).unwrap();
    let mut files = match format {
        Format::Ext4 => read::ext4::read(image.as_file()),
        Format::Erofs(_) => read::erofs::read(image.as_file()),
    };
    let mut expected = model.files();
    if format == Format::Ext4 {
        files.remove(&b"lost+found"[..]);
        expected.get_mut(&b""[..]).unwrap().links += 1;
    }
    tree::same_numbers(&mut files);
    tree::same_numbers(&mut expected);
    for (path, seen) in &expected {
        prop_assert_eq!(files.get(path), Some(seen), "{}", path.escape_ascii());
    }
    prop_assert_eq!(files.len(), expected.len(), "nothing is too much");
    let length = image.as_file().metadata().unwrap().len();
    prop_assert_eq!(length, summary.image_bytes);
    if check {
        match format {
            Format::Ext4 => fsck(image.path()),
            Format::Erofs(_) => fsck_erofs(image.path()),
        }
    }
    Ok(())
}

fn stacks() -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(entries::op(), 0..10), 1..5)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn ext4_has_what_the_layers_say(
        stack in stacks(),
        journal in prop::bool::weighted(0.1),
        check in prop::bool::weighted(0.1),
    ) {
        agree(&stack, Format::Ext4, journal, check)?;
    }

    #[test]
    fn erofs_has_what_the_layers_say(
        stack in stacks(),
        compress in prop::bool::weighted(0.8),
        check in prop::bool::weighted(0.1),
    ) {
        let compression = if compress { Compression::Lz4 } else { Compression::None };
        agree(&stack, Format::Erofs(compression), false, check)?;
    }
}
