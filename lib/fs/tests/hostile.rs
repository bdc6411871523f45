//! Streams that are wrong: the error says where, and nothing panics.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::cell::Cell;
use std::io::{self, Read};

use common::{Tar, image, try_build};
use lib_fs::{Error, Layer, Limits, Options, build};
use proptest::prelude::*;

fn error(layer: &[u8]) -> String {
    match try_build(&[Vec::new(), layer.to_vec()], &Options::default()) {
        Err(error) => error.to_string(),
        Ok((_, summary)) => panic!("{summary:?}"),
    }
}

#[test]
fn what_is_wrong_is_said() {
    let good = Tar::new().file("f", &[1; 2000]).end();
    let mut damaged = Tar::new().file("f", b"1").file("g", b"2").end();
    damaged[1024 + 10] ^= 1;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            b"hello".to_vec(),
            "layer layer1: not a tar archive: shorter than a header",
        ),
        (
            vec![b'x'; 5000],
            "layer layer1: not a tar archive: a number is not octal",
        ),
        (
            vec![b' '; 512],
            "layer layer1: not a tar archive: header checksum mismatch",
        ),
        (
            damaged,
            "layer layer1: damaged tar archive at byte 1536: header checksum mismatch",
        ),
        (
            good[..1000].to_vec(),
            "layer layer1: damaged tar archive at byte 1000: the content is truncated",
        ),
        (
            [&good[..2560], &good[..100]].concat(),
            "layer layer1: damaged tar archive at byte 2660: a header is truncated",
        ),
        (
            Tar::new().pax("mtime", b"x").file("f", b"").end(),
            "layer layer1: damaged tar archive at byte 523: a number is not decimal",
        ),
        (
            Tar::new()
                .pax("GNU.sparse.map", b"5,1")
                .pax("GNU.sparse.size", b"5")
                .file("f", b"1")
                .end(),
            "layer layer1: damaged tar archive at byte 1536: the sparse map exceeds the file",
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(error(&layer), expected);
    }
}

#[test]
fn a_petabyte_of_holes_is_refused_at_once() {
    let layer = Tar::new()
        .pax("GNU.sparse.map", b"")
        .pax("GNU.sparse.size", b"1125899906842624")
        .file("f", b"")
        .end();
    assert_eq!(
        error(&layer),
        "layer layer1: entry \"f\": the file is too large"
    );
}

/// Fails at its end, as a reader that checks a digest does.
struct Verified<'a> {
    bytes: &'a [u8],
    ended: &'a Cell<bool>,
    good: bool,
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.bytes.read(buffer)?;
        if n == 0 && !buffer.is_empty() {
            self.ended.set(true);
            if !self.good {
                return Err(io::Error::other("wrong digest"));
            }
        }
        Ok(n)
    }
}

#[test]
fn streams_are_read_to_their_end() {
    let mut bytes = Tar::new().file("f", b"1").end();
    bytes.extend_from_slice(&[9; 300_000]);
    for (upper, good) in [
        (Tar::new(), true),
        (Tar::new(), false),
        (Tar::new().whiteout(".wh..wh..opq"), true),
        (Tar::new().whiteout(".wh..wh..opq"), false),
    ] {
        let upper = upper.end();
        let ended = Cell::new(false);
        let verified = Verified {
            bytes: &bytes,
            ended: &ended,
            good,
        };
        let layers = [
            Layer::new("upper", &upper[..]),
            Layer::new("sha256:1", verified),
        ];
        let result = build(layers, image().as_file(), &Options::default(), &|_| {});
        assert!(ended.get());
        match result {
            Ok(_) => assert!(good),
            Err(Error::Read { layer, source }) => {
                assert_eq!(
                    (layer.as_str(), source.to_string()),
                    ("sha256:1", "wrong digest".into())
                );
                assert!(!good);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn layers_open_one_after_the_other_and_may_fail_to() {
    let layers = [
        Layer::new("first", &[][..]),
        Layer {
            name: "second".into(),
            open: Box::new(|| Err(io::Error::other("gone"))),
            again: false,
        },
    ];
    let error = build(layers, image().as_file(), &Options::default(), &|_| {}).unwrap_err();
    assert!(matches!(error, Error::Read { layer, .. } if layer == "second"));
}

/// One archive with everything the reader knows.
fn seed() -> Vec<u8> {
    let sparse = |header: &mut common::tar::Header| {
        header.raw[257..265].copy_from_slice(b"ustar  \0");
        header.size(512);
        for (i, value) in [0, 256, 8192, 256].into_iter().enumerate() {
            header.octal(386 + i * 12, 12, value);
        }
        header.octal(483, 12, 9000);
    };
    let map = {
        let mut map = b"2\n0\n100\n5000\n412\n".to_vec();
        map.resize(1024, 0);
        map
    };
    Tar::new()
        .dir("./")
        .dir("d")
        .file("d/f", &[7; 700])
        .pax("SCHILY.xattr.user.x", b"value")
        .pax("mtime", b"-5.25")
        .file("d/x", b"x")
        .link("l", "d/f")
        .symlink("s", b"d")
        .file("s/through", b"t")
        .entry(
            b'L',
            b"././@LongLink",
            |header| header.size(9),
            b"long/name",
        )
        .file("short", b"")
        .entry(b'S', b"gnu", sparse, &[3; 512])
        .pax("GNU.sparse.major", b"1")
        .pax("GNU.sparse.minor", b"0")
        .pax("GNU.sparse.realsize", b"6000")
        .file("pax", &map)
        .entry(b'3', b"c", |header| header.device(1, 3), b"")
        .whiteout("d/.wh.gone")
        .whiteout("d/.wh..wh..opq")
        .file("d/f", &[8; 9000])
        .end()
}

#[test]
fn the_seed_itself_is_fine() {
    common::built(&[seed(), seed()], &Options::default());
}

/// Makes checksums right again, so that damage reaches what is behind them.
fn resum(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512) {
        if &header[257..262] == b"ustar" {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        keep in prop::bool::weighted(0.8),
        right in prop::bool::weighted(0.8),
    ) {
        let mut bytes = seed();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if right {
            resum(&mut bytes);
        }
        if !keep {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = Limits { content_bytes: 1 << 20, ..Limits::default() };
        let options = Options { limits, ..Options::default() };
        if let Ok((image, _)) = try_build(&[bytes, seed()], &options)
            && cut.index(40) == 0
        {
            common::fsck(image.path());
        }
    }
}
