//! EROFS images are sound by fsck.erofs, and are what the kernel reads.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};

use common::{Mounted, Tar, acl, built, skip_mount, try_build, xattr};
use lib_fs::{Compression, Error, Fault, Format, Layer, Options, build};
use sha2::{Digest, Sha256};

const BOTH: [Compression; 2] = [Compression::None, Compression::Lz4];

fn options(compression: Compression) -> Options {
    Options {
        format: Format::Erofs(compression),
        ..Options::default()
    }
}

fn mount(image: &std::path::Path) -> Mounted {
    Mounted::of_type("erofs", image, "ro")
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8))
        .flat_map(|_| next())
        .take(length)
        .collect()
}

fn text(length: usize) -> Vec<u8> {
    (0..)
        .flat_map(|i: u32| format!("line {i} of many, and not the last\n").into_bytes())
        .take(length)
        .collect()
}

#[test]
fn the_kernel_reads_what_was_written() {
    for compression in BOTH {
        let (image, summary) = built(&[common::everything()], &options(compression));
        assert_eq!(summary.inodes, 18);
        if skip_mount() {
            return;
        }
        let mounted = mount(image.path());
        let mut expected = common::everything_listed();
        // There is no lost+found.
        expected[0] = " dir 751 0:0 x3 ".into();
        assert_eq!(mounted.listing(), expected);
        let inode = |path: &str| fs::metadata(mounted.at(path)).unwrap().ino();
        assert_eq!(inode("hard"), inode("d/small"));
        let big = fs::read(mounted.at("d/big")).unwrap();
        let right = |(i, &byte): (usize, &u8)| byte == (i % 251) as u8;
        assert!(big.iter().enumerate().all(right));
    }
}

#[test]
fn nothing_at_all() {
    for layers in [vec![], vec![Vec::new()], vec![Tar::new().end(); 3]] {
        let (image, summary) = built(&layers, &options(Compression::Lz4));
        assert_eq!((summary.inodes, summary.image_bytes), (1, 4096));
        if !skip_mount() {
            assert_eq!(mount(image.path()).listing(), [" dir 755 0:0 x2 "]);
        }
    }
}

#[test]
fn contents_of_every_size_and_kind() {
    let sizes = [
        1, 511, 3967, 3968, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 8193, 131_071, 131_072,
        131_073, 135_168, 135_169, 262_143, 262_144, 262_145, 1_000_000, 5_000_001,
    ];
    let mut files = Vec::new();
    for size in sizes {
        files.push((format!("noise-{size}"), noise(size)));
        files.push((format!("text-{size}"), text(size)));
        files.push((format!("zeros-{size}"), vec![0; size]));
        let mut mixed = noise(size);
        let middle = size / 3..size / 3 * 2;
        mixed[middle.clone()].copy_from_slice(&text(middle.len()));
        files.push((format!("mixed-{size}"), mixed));
    }
    let mut tar = Tar::new();
    for (name, content) in &files {
        tar = tar.file(name, content);
    }
    let tar = tar.end();
    let mut used = Vec::new();
    for compression in BOTH {
        let (image, summary) = built(std::slice::from_ref(&tar), &options(compression));
        used.push(summary.used_bytes);
        if skip_mount() {
            continue;
        }
        let mounted = mount(image.path());
        for (name, content) in &files {
            assert!(&fs::read(mounted.at(name)).unwrap() == content, "{name}");
        }
        let mut middle = [0; 1000];
        let at = 3_000_000;
        let file = File::open(mounted.at("text-5000001")).unwrap();
        file.read_exact_at(&mut middle, at).unwrap();
        assert_eq!(middle, text(5_000_001)[at as usize..][..1000]);
    }
    assert!(used[1] * 10 < used[0] * 7, "text is compressed: {used:?}");
}

#[test]
fn extended_attributes() {
    const NONE: u32 = u32::MAX;
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let access = acl(&[
        (1, 6, NONE),
        (2, 7, 1000),
        (4, 4, NONE),
        (0x10, 7, NONE),
        (0x20, 0, NONE),
    ]);
    let default = acl(&[(1, 7, NONE), (4, 5, NONE), (0x20, 5, NONE)]);
    let minimal = acl(&[(1, 6, NONE), (4, 4, NONE), (0x20, 4, NONE)]);
    let set = |mut tar: Tar, values: &[(&str, &[u8])]| {
        for (name, value) in values {
            tar = tar.pax(&format!("SCHILY.xattr.{name}"), value);
        }
        tar
    };
    let large = noise(20_000);
    let mut tar = set(Tar::new(), &[("user.root", &large), ("trusted.t", b"t")]).dir("./");
    tar = set(tar, &[("security.capability", &capability)]).file("cap", b"x");
    tar = set(tar, &[("user.large", &large)]).file("large", b"x");
    let both: [(&str, &[u8]); 2] = [
        ("system.posix_acl_access", &access),
        ("system.posix_acl_default", &default),
    ];
    tar = set(tar, &both).entry(b'5', b"dir", |header| header.mode(0o674), b"");
    tar = set(tar, &[("system.posix_acl_access", &minimal)]).file("minimal", b"");
    tar = set(tar, &[("com.apple.quarantine", b"q"), ("user.kept", b"k")]).file("foreign", b"");
    for i in 0..1500 {
        let content = vec![b'c'; i * 3];
        tar = set(tar, &[("user.shared", &large[..500])]).file(&format!("shared{i}"), &content);
    }
    for i in 0..300 {
        tar = tar.pax(&format!("SCHILY.xattr.user.{i}"), b"v");
    }
    let tar = tar.file("many", b"").end();
    let (image, summary) = built(&[tar], &options(Compression::Lz4));
    assert_eq!(summary.dropped_xattrs, 1);
    let average = summary.image_bytes / 1500;
    assert!(average < 3000, "{average}: equal sets are shared");
    if !skip_mount() {
        let mounted = mount(image.path());
        let get = |path: &str, name: &str| xattr(&mounted.at(path), name);
        assert_eq!(get("", "user.root").as_deref(), Some(&large[..]));
        assert_eq!(get("", "trusted.t").as_deref(), Some(&b"t"[..]));
        assert_eq!(
            get("cap", "security.capability").as_deref(),
            Some(&capability[..])
        );
        assert_eq!(get("large", "user.large").as_deref(), Some(&large[..]));
        assert_eq!(get("dir", "system.posix_acl_access"), Some(access));
        assert_eq!(get("dir", "system.posix_acl_default"), Some(default));
        assert_eq!(get("minimal", "system.posix_acl_access"), None);
        assert_eq!(get("foreign", "user.kept").as_deref(), Some(&b"k"[..]));
        for name in ["shared0", "shared1", "shared700", "shared1499"] {
            assert_eq!(
                get(name, "user.shared").as_deref(),
                Some(&large[..500]),
                "{name}"
            );
        }
        assert_eq!(get("many", "user.299").as_deref(), Some(&b"v"[..]));
    }
    for (name, value, expected) in [
        ("user.too-large", vec![0; 65536], Fault::XattrSize),
        ("system.posix_acl_access", vec![2, 0, 0, 0, 9], Fault::Acl),
    ] {
        let bad = |content: &[u8]| {
            set(Tar::new(), &[(name, &value)])
                .file("bad", content)
                .end()
        };
        for content in [&b""[..], b"inline", &noise(9000)] {
            match try_build(&[bad(content)], &options(Compression::Lz4)) {
                Err(Error::Unstorable { path, fault }) => {
                    assert_eq!((path.as_str(), fault), ("bad", expected.clone()));
                }
                other => panic!("{other:?}"),
            }
        }
        // What is hidden cannot be wrong.
        let hidden = [Tar::new().whiteout(".wh.bad").end(), bad(b"inline")];
        built(&hidden, &options(Compression::Lz4));
    }
}

#[test]
fn holes_cost_nothing() {
    let far = (6u64 << 30) + 100;
    let sparse = |header: &mut common::tar::Header| {
        header.raw[257..265].copy_from_slice(b"ustar  \0");
        header.size(1000 + 8192);
        for (i, value) in [0, 1000, far, 8192].into_iter().enumerate() {
            header.octal(386 + i * 12, 12, value);
        }
        header.octal(483, 12, far + 8192 + 5);
    };
    let data = [&[b'a'; 1000][..], &[b'b'; 8192]].concat();
    let mut holes = vec![0; 400 * 8192];
    for i in 0..400 {
        holes[i * 8192] = 1;
    }
    let nothing = |tar: Tar, name: &str, size: &str| {
        let tar = tar.pax("GNU.sparse.map", b"");
        tar.pax("GNU.sparse.size", size.as_bytes()).file(name, b"")
    };
    let mut tar = Tar::new()
        .entry(b'S', b"gnu", sparse, &data)
        .file("fragmented", &holes);
    tar = nothing(tar, "small", "100000");
    for i in 0..500 {
        tar = nothing(tar, &format!("many/{i}"), "16492674416640");
    }
    let tar = nothing(tar, "huge", "1099511627776").end();
    for compression in BOTH {
        let (image, summary) = built_without_reading(&tar, compression);
        assert!(summary.image_bytes < 1 << 30, "{summary:?}");
        let stored = image.as_file().metadata().unwrap().blocks() * 512;
        assert!(stored < 4 << 20, "{stored} bytes stored");
        if skip_mount() {
            continue;
        }
        let mounted = mount(image.path());
        let mut gnu = File::open(mounted.at("gnu")).unwrap();
        assert_eq!(gnu.metadata().unwrap().len(), far + 8192 + 5);
        let mut piece = vec![0; 1100];
        gnu.read_exact(&mut piece).unwrap();
        assert_eq!(piece, [&[b'a'; 1000][..], &[0; 100]].concat());
        gnu.seek(SeekFrom::Start(far - 10)).unwrap();
        let mut rest = Vec::new();
        gnu.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [&[0; 10][..], &[b'b'; 8192], &[0; 5]].concat());
        assert!(fs::read(mounted.at("fragmented")).unwrap() == holes);
        assert_eq!(fs::read(mounted.at("small")).unwrap(), vec![0; 100_000]);
        let huge = File::open(mounted.at("huge")).unwrap();
        let mut end = [1; 10];
        huge.read_exact_at(&mut end, (1 << 40) - 10).unwrap();
        assert_eq!(end, [0; 10]);
    }
}

/// fsck.erofs would read a terabyte of holes.
fn built_without_reading(
    tar: &[u8],
    compression: Compression,
) -> (tempfile::NamedTempFile, lib_fs::Summary) {
    let (image, summary) = try_build(&[tar.to_vec()], &options(compression)).unwrap();
    let fsck = std::process::Command::new("/usr/bin/fsck.erofs")
        .arg(image.path())
        .output()
        .expect("fsck.erofs is needed");
    assert!(
        fsck.status.success(),
        "{}",
        String::from_utf8_lossy(&fsck.stdout)
    );
    (image, summary)
}

#[test]
fn a_directory_of_a_hundred_thousand() {
    let image = common::image();
    let options = options(Compression::Lz4);
    let mut builder = lib_fs::Builder::new(image.as_file(), &options).unwrap();
    let attributes = lib_fs::Attributes::new(0o644);
    let name = |i: u32| format!("big/{i:06}-\u{e9}-{}", "x".repeat((i % 40) as usize));
    for i in 0..100_000 {
        let content = i.to_string();
        let content = if i % 2 == 0 { content.as_bytes() } else { b"" };
        builder
            .file(name(i).as_bytes(), &attributes, 0, content)
            .unwrap();
    }
    builder.finish().unwrap();
    common::fsck_erofs(image.path());
    if skip_mount() {
        return;
    }
    let mounted = mount(image.path());
    assert_eq!(fs::read_dir(mounted.at("big")).unwrap().count(), 100_000);
    for i in (0..100_000).step_by(98) {
        assert_eq!(
            fs::read_to_string(mounted.at(&name(i))).unwrap(),
            i.to_string()
        );
    }
    assert!(!mounted.at("big/none").exists());
}

#[test]
fn names_of_files_are_counted() {
    let mut tar = Tar::new()
        .file("inline", b"small")
        .file("blocks", &noise(9000));
    for i in 0..70_000 {
        tar = tar.link(
            &format!("l{i}"),
            if i % 2 == 0 { "inline" } else { "blocks" },
        );
    }
    let tar = tar.symlink("s", b"inline").link("s2", "s").end();
    let (image, summary) = built(&[tar], &options(Compression::Lz4));
    assert_eq!(summary.inodes, 4);
    if skip_mount() {
        return;
    }
    let mounted = mount(image.path());
    let links = |name: &str| fs::symlink_metadata(mounted.at(name)).unwrap().nlink();
    assert_eq!(
        (links("inline"), links("l1"), links("s2")),
        (35_001, 35_001, 2)
    );
    assert_eq!(fs::read(mounted.at("l69998")).unwrap(), b"small");
}

#[test]
fn the_same_twice() {
    let big = noise(1 << 20);
    let upper = Tar::new()
        .whiteout(".wh.gone")
        .file("again", &big)
        .file("again", b"s")
        .end();
    let lower = Tar::new()
        .file("gone", &big)
        .file("kept", &text(700_000))
        .end();
    let layers = [upper, common::everything(), lower];
    let sum = || {
        let (image, _) = built(&layers, &options(Compression::Lz4));
        Sha256::digest(fs::read(image.path()).unwrap())
    };
    assert_eq!(sum(), sum());
}

#[test]
fn a_stream_gives_what_bytes_give() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = buffer.len().min(777);
            self.0.read(&mut buffer[..n])
        }
    }
    let tar = common::everything();
    let (image, _) = built(std::slice::from_ref(&tar), &options(Compression::Lz4));
    let slow = common::image();
    let layers = [Layer::new("slow", Slow(&tar))];
    build(layers, slow.as_file(), &options(Compression::Lz4), &|_| {}).unwrap();
    assert!(fs::read(image.path()).unwrap() == fs::read(slow.path()).unwrap());
}

#[test]
fn what_is_in_no_directory_is_not_in_the_image() {
    let secret = b"a secret that was overwritten";
    let lower = Tar::new().file("a", secret).file("a", b"public");
    let lower = lower.file("b", secret).file("c", b"c").end();
    let upper = Tar::new().whiteout(".wh.b").end();
    let image = common::image();
    // Streams that are read once cannot be skipped.
    let layers = [("upper", &upper), ("lower", &lower)].map(|(n, bytes)| Layer::new(n, &bytes[..]));
    let summary = build(layers, image.as_file(), &options(Compression::Lz4), &|_| {}).unwrap();
    common::fsck_erofs(image.path());
    assert_eq!(summary.inodes, 3);
    let bytes = fs::read(image.path()).unwrap();
    let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(has(b"public") && !has(secret));
}
