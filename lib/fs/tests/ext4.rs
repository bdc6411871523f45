//! What is written is sound by e2fsck, and is what the kernel reads.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use common::{Mounted, Tar, acl, built, debugfs, fsck, image, run, skip_mount, try_build, xattr};
use lib_fs::{
    Attributes, Builder, Error, Fault, Layer, Limits, Options, SizeChoice, Time, build,
    format_empty,
};
use sha2::{Digest, Sha256};

fn options() -> Options {
    Options::default()
}

#[test]
fn empty_layers_make_an_empty_file_system() {
    for layers in [
        vec![],
        vec![Vec::new()],
        vec![vec![0; 512]],
        vec![Tar::new().end(); 3],
    ] {
        for journal in [false, true] {
            let (_, summary) = built(
                &layers,
                &Options {
                    journal,
                    ..options()
                },
            );
            assert_eq!(summary.inodes, 11);
        }
    }
}

#[test]
fn sizes() {
    let gib = 1 << 30;
    for (size, journal) in [
        (1 << 20, false),
        (6 << 20, false),
        (8 << 20, true),
        (128 << 20, true),
        ((128 << 20) + 4096, true),
        ((128 << 20) + (64 << 12), true),
        (gib, true),
        (10 * gib, true),
        (100 * gib + 12345, true),
        (2048 * gib, true),
    ] {
        let image = image();
        let summary = format_empty(
            image.as_file(),
            size,
            &Options {
                journal,
                ..options()
            },
        )
        .unwrap();
        assert!(summary.image_bytes <= size && summary.image_bytes + (1 << 16) > size);
        fsck(image.path());
        let stored = image.as_file().metadata().unwrap().blocks() * 512;
        assert!(stored < 8 << 20, "{size}: {stored} bytes stored");
    }
    let small = format_empty(image().as_file(), 100 << 10, &options());
    assert!(
        matches!(small, Err(Error::TooSmall { needed, .. }) if needed <= 8 << 20),
        "{small:?}"
    );

    let layer = Tar::new().file("f", &vec![1; 3 << 20]).end();
    for (size, least, free) in [
        (SizeChoice::Fit, 3 << 20, 1 << 20),
        (SizeChoice::AtLeast(64 << 20), 64 << 20, 50 << 20),
        (SizeChoice::AtLeast(1), 3 << 20, 0),
        (SizeChoice::Free(500 << 20), 503 << 20, 500 << 20),
        (SizeChoice::Exactly(99 << 20), 99 << 20, 80 << 20),
    ] {
        let (_, summary) = built(
            std::slice::from_ref(&layer),
            &Options {
                size,
                bytes_per_inode: 4096,
                ..options()
            },
        );
        assert!(summary.image_bytes >= least, "{size:?}: {summary:?}");
        assert!(
            summary.image_bytes - summary.used_bytes >= free,
            "{size:?}: {summary:?}"
        );
    }
    let tight = Options {
        size: SizeChoice::Exactly(2 << 20),
        journal: false,
        ..options()
    };
    assert!(matches!(
        try_build(&[layer], &tight),
        Err(Error::TooSmall { .. })
    ));
}

#[test]
fn an_empty_file_system_can_be_written() {
    if skip_mount() {
        return;
    }
    let image = image();
    format_empty(image.as_file(), 3 << 30, &options()).unwrap();
    {
        let mounted = Mounted::new(image.path(), "rw");
        for i in 0..300 {
            let directory = mounted.at(&format!("d{}", i % 7));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(format!("f{i}")), vec![i as u8; i * 100]).unwrap();
        }
        let mut big = File::create(mounted.at("big")).unwrap();
        for _ in 0..200 {
            big.write_all(&vec![7; 1 << 20]).unwrap();
        }
        big.sync_all().unwrap();
    }
    fsck(image.path());
    let mounted = Mounted::new(image.path(), "ro");
    assert_eq!(fs::metadata(mounted.at("big")).unwrap().len(), 200 << 20);
}

#[test]
fn the_kernel_reads_what_was_written() {
    let (image, _) = built(&[common::everything()], &options());
    if skip_mount() {
        return;
    }
    let mounted = Mounted::new(image.path(), "ro");
    let expected = common::everything_listed();
    assert_eq!(mounted.listing(), expected);
    let inode = |path: &str| fs::metadata(mounted.at(path)).unwrap().ino();
    assert_eq!(inode("hard"), inode("d/small"));
    let name = mounted.path().join(OsStr::from_bytes(b"\xff\xfe\x80"));
    assert!(name.symlink_metadata().is_ok(), "names are bytes");
    let big = fs::read(mounted.at("d/big")).unwrap();
    assert!(
        big.iter()
            .enumerate()
            .all(|(i, &byte)| byte == (i % 251) as u8)
    );
}

#[test]
fn times() {
    let cases: &[(&str, i64, i64)] = &[
        ("0", 0, 0),
        ("-1", -1, 0),
        ("-1.25", -2, 750_000_000),
        ("-2147483648", -2_147_483_648, 0),
        ("2147483648.000000001", 2_147_483_648, 1),
        ("4294967296.5", 4_294_967_296, 500_000_000),
        ("15032385535.999999999", 15_032_385_535, 999_999_999),
        ("1700000000.123456789", 1_700_000_000, 123_456_789),
        ("99999999999", 15_032_385_535, 0),
    ];
    let mut tar = Tar::new();
    for (i, (text, ..)) in cases.iter().enumerate() {
        tar = tar
            .pax("mtime", text.as_bytes())
            .file(&format!("f{i}"), b"");
    }
    tar = tar.entry(b'0', b"old", |header| header.base256(136, 12, -86_400), b"");
    let (image, _) = built(&[tar.end()], &options());
    if skip_mount() {
        return;
    }
    let mounted = Mounted::new(image.path(), "ro");
    for (i, (text, seconds, nanos)) in cases.iter().enumerate() {
        let metadata = fs::metadata(mounted.at(&format!("f{i}"))).unwrap();
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (*seconds, *nanos),
            "{text}"
        );
    }
    assert_eq!(fs::metadata(mounted.at("old")).unwrap().mtime(), -86_400);
}

#[test]
fn extended_attributes() {
    const NONE: u32 = u32::MAX;
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let access = acl(&[
        (1, 6, NONE),
        (2, 7, 1000),
        (2, 4, 70000),
        (4, 4, NONE),
        (8, 5, 5),
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
    let large = vec![b'L'; 3900];
    let many: Vec<(String, Vec<u8>)> = (0..40)
        .map(|i| (format!("user.{}", "k".repeat(i + 1)), vec![b'v'; i + 1]))
        .collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(n, v)| (n.as_str(), &v[..])).collect();
    type Values<'a> = Vec<(&'a str, &'a [u8])>;
    let mut cases: Vec<(String, Values<'_>)> = vec![
        ("cap".into(), vec![("security.capability", &capability)]),
        (
            "small".into(),
            vec![("user.a", b"\0"), ("user.b", b"\0\n=")],
        ),
        (
            "large".into(),
            vec![("user.large", &large), ("trusted.t", b"t")],
        ),
        (
            "both".into(),
            vec![("user.large", &large), ("user.second", &[b's'; 60])],
        ),
        ("many".into(), many.clone()),
        (
            "acl".into(),
            vec![("system.posix_acl_access", &access), ("user.x", b"x")],
        ),
    ];
    for i in 0..1500 {
        cases.push((format!("shared{i}"), vec![("user.shared", &large[..500])]));
    }
    let mut tar = set(Tar::new(), &[("user.root", &large[..200])]).dir("./");
    for (path, values) in &cases {
        tar = set(tar, values).entry(b'0', path.as_bytes(), |header| header.mode(0o674), b"");
    }
    tar = set(tar, &[("system.posix_acl_default", &default)]).dir("dir");
    tar = set(tar, &[("system.posix_acl_access", &minimal)]).file("minimal", b"");
    tar = set(tar, &[("com.apple.quarantine", b"q"), ("user.kept", b"k")]).file("foreign", b"");
    let (image, summary) = built(&[tar.end()], &options());
    assert_eq!(summary.dropped_xattrs, 1);
    if skip_mount() {
        return;
    }
    let mounted = Mounted::new(image.path(), "ro");
    let get = |path: &str, name: &str| xattr(&mounted.at(path), name);
    for (path, values) in &cases {
        for (name, value) in values {
            assert_eq!(get(path, name).as_deref(), Some(*value), "{path} {name}");
        }
    }
    assert_eq!(get("", "user.root").unwrap().len(), 200);
    assert_eq!(get("dir", "system.posix_acl_default"), Some(default));
    assert_eq!(get("minimal", "system.posix_acl_access"), None);
    assert_eq!(get("foreign", "user.kept").as_deref(), Some(&b"k"[..]));
    for (name, value, expected) in [
        ("user.too-large", vec![0; 4096], Fault::XattrSize),
        ("system.posix_acl_access", vec![2, 0, 0, 0, 9], Fault::Acl),
        ("system.posix_acl_default", acl(&[(3, 7, NONE)]), Fault::Acl),
    ] {
        let layer = set(Tar::new(), &[(name, &value)]).file("bad", b"").end();
        match try_build(&[layer], &options()) {
            Err(Error::Unstorable { path, fault }) => {
                assert_eq!((path.as_str(), fault), ("bad", expected));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_directory_of_a_hundred_thousand() {
    let image = image();
    let options = options();
    let mut builder = Builder::new(image.as_file(), &options).unwrap();
    let attributes = Attributes::new(0o644);
    let name = |i: u32| {
        format!(
            "big/entry-number-{i:06}-\u{e9}-{}",
            "x".repeat((i % 40) as usize)
        )
    };
    for i in 0..100_000 {
        builder
            .file(name(i).as_bytes(), &attributes, 0, std::io::empty())
            .unwrap();
    }
    let summary = builder.finish().unwrap();
    assert_eq!(summary.inodes, 100_012);
    fsck(image.path());
    let hashed = debugfs(image.path(), "htree_dump /big");
    assert!(hashed.contains("Indirect levels: 1"), "{}", &hashed[..500]);
    if skip_mount() {
        return;
    }
    let mounted = Mounted::new(image.path(), "ro");
    assert_eq!(fs::read_dir(mounted.at("big")).unwrap().count(), 100_000);
    for i in (0..100_000).step_by(97) {
        assert!(
            mounted.at(&name(i)).exists(),
            "the kernel finds {i} by its hash"
        );
    }
    assert!(!mounted.at("big/none").exists());
}

#[test]
fn a_large_directory_can_be_written_on() {
    let mut tar = Tar::new();
    for i in 0..3000 {
        tar = tar
            .file(&format!("d/file-{i}"), b"")
            .dir(&format!("s/dir-{i}"));
    }
    let size = SizeChoice::Free(64 << 20);
    let (image, _) = built(
        &[tar.end()],
        &Options {
            size,
            bytes_per_inode: 4096,
            ..options()
        },
    );
    if skip_mount() {
        return;
    }
    {
        let mounted = Mounted::new(image.path(), "rw");
        for i in 0..5000 {
            fs::write(mounted.at(&format!("d/more-{i}")), b"x").unwrap();
        }
        for i in 0..3000 {
            fs::remove_file(mounted.at(&format!("d/file-{i}"))).unwrap();
        }
        fs::remove_dir_all(mounted.at("s")).unwrap();
    }
    fsck(image.path());
}

#[test]
fn more_subdirectories_than_links() {
    let image = image();
    let options = options();
    let mut builder = Builder::new(image.as_file(), &options).unwrap();
    for i in 0..65_100 {
        builder
            .directory(format!("d/{i}").as_bytes(), &Attributes::new(0o755))
            .unwrap();
    }
    builder.finish().unwrap();
    fsck(image.path());
}

#[test]
fn sparse_files() {
    let image = image();
    let options = options();
    // Old GNU: a piece at the start and one beyond 4 GiB, the last with a block of zeros.
    let far = (6u64 << 30) + 100;
    let sparse = |header: &mut common::tar::Header| {
        header.raw[257..265].copy_from_slice(b"ustar  \0");
        header.size(1000 + 8192);
        for (i, value) in [0, 1000, far, 8192].into_iter().enumerate() {
            header.octal(386 + i * 12, 12, value);
        }
        header.octal(483, 12, far + 8192 + 5);
    };
    let mut data = vec![b'a'; 1000];
    data.extend_from_slice(&[b'b'; 8192]);
    let mut layer = Tar::new().entry(b'S', b"gnu", sparse, &data);
    // A block in two, so that the trees of extents get two and three levels.
    let mut holes = vec![0; 2000 * 8192];
    for i in 0..2000 {
        holes[i * 8192] = 1;
    }
    layer = layer.file("shallow", &holes[..1000 * 8192]);
    layer = layer
        .file("fragmented", &holes)
        .file("zeros", &[0; 100_000]);
    let layer = layer.end();
    build(
        [Layer::new("l", &layer[..])],
        image.as_file(),
        &options,
        &|_| {},
    )
    .unwrap();
    fsck(image.path());
    let stored = image.as_file().metadata().unwrap().blocks() * 512;
    assert!(stored < 13 << 20, "{stored} bytes stored");
    assert!(
        debugfs(image.path(), "ex /shallow").contains(" 1/ 1 "),
        "depth"
    );
    assert!(
        debugfs(image.path(), "ex /fragmented").contains(" 2/ 2 "),
        "depth"
    );
    if skip_mount() {
        return;
    }
    let mounted = Mounted::new(image.path(), "ro");
    let mut gnu = File::open(mounted.at("gnu")).unwrap();
    assert_eq!(gnu.metadata().unwrap().len(), far + 8192 + 5);
    let mut piece = vec![0; 1100];
    gnu.read_exact(&mut piece).unwrap();
    assert_eq!(
        (&piece[..1000], &piece[1000..]),
        (&[b'a'; 1000][..], &[0; 100][..])
    );
    gnu.seek(SeekFrom::Start(far - 10)).unwrap();
    let mut rest = Vec::new();
    gnu.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [&[0; 10][..], &[b'b'; 8192], &[0; 5]].concat());
    assert_eq!(fs::read(mounted.at("fragmented")).unwrap(), holes);
    assert_eq!(fs::metadata(mounted.at("zeros")).unwrap().blocks(), 0);
}

#[test]
fn gnu_tar_writes_and_we_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let long = "directory-with-a-long-name/".repeat(9);
    fs::create_dir_all(at(&long)).unwrap();
    fs::write(at(&long).join("file"), b"deep").unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len((200 << 20) + 3).unwrap();
    for i in 0..40 {
        sparse.write_all_at(&[i as u8 + 1; 5000], i << 20).unwrap();
    }
    sparse.write_all_at(b"end", 200 << 20).unwrap();
    std::os::unix::fs::symlink("t".repeat(200), at("link")).unwrap();
    let formats: [&[&str]; 6] = [
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--sparse", "--hole-detection=raw"],
    ];
    for format in &formats {
        let archive = at("../").join(format!(
            "{}.tar",
            directory.path().file_name().unwrap().to_string_lossy()
        ));
        run(Command::new("tar")
            .args(*format)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(directory.path())
            .arg("."));
        let image = image();
        let layer = Layer::new("tar", File::open(&archive).unwrap());
        let built = build([layer], image.as_file(), &options(), &|_| {});
        fs::remove_file(&archive).unwrap();
        built.unwrap();
        fsck(image.path());
        if skip_mount() {
            continue;
        }
        let mounted = Mounted::new(image.path(), "ro");
        run(Command::new("diff")
            .args(["-r", "--no-dereference", "--exclude=lost+found"])
            .arg(directory.path())
            .arg(mounted.path()));
    }
}

#[test]
fn the_same_twice() {
    let big = vec![b'x'; 1 << 20];
    let upper = Tar::new()
        .whiteout(".wh.gone")
        .file("again", &big)
        .file("again", b"s")
        .end();
    let lower = Tar::new()
        .file("gone", &big)
        .file("kept", &big[..70_000])
        .end();
    let layers = [upper, common::everything(), lower];
    let sum = || {
        let (image, _) = built(&layers, &options());
        Sha256::digest(fs::read(image.path()).unwrap())
    };
    assert_eq!(sum(), sum());
}

#[test]
fn the_builder_makes_every_kind() {
    let image = image();
    let options = Options {
        label: "modules".into(),
        journal: false,
        time: 1_700_000_000,
        ..Options::default()
    };
    let mut builder = Builder::new(image.as_file(), &options).unwrap();
    let mut attributes = Attributes::new(0o640);
    attributes.mtime = Time {
        seconds: 5,
        nanos: 6,
    };
    builder
        .file(b"/lib/modules/a.ko", &attributes, 3, &b"elf"[..])
        .unwrap();
    builder.hardlink(b"lib/b", b"lib/modules/a.ko").unwrap();
    builder
        .symlink(b"l", &Attributes::new(0o777), b"lib")
        .unwrap();
    builder.fifo(b"p", &attributes).unwrap();
    builder.device(b"n", &attributes, false, (1, 3)).unwrap();
    builder.directory(b"", &Attributes::new(0o700)).unwrap();
    assert!(
        builder
            .file(b"../x", &attributes, 0, std::io::empty())
            .is_err()
    );
    builder.finish().unwrap();
    fsck(image.path());
    if skip_mount() {
        return;
    }
    let mounted = Mounted::new(image.path(), "ro");
    let expected = [
        " dir 700 0:0 x4 ",
        "l link 777 0:0 x1 lib",
        "lib dir 755 0:0 x3 ",
        "lib/b file 640 0:0 x2 \"elf\"",
        "lib/modules dir 755 0:0 x2 ",
        "lib/modules/a.ko file 640 0:0 x2 \"elf\"",
        "n char 640 0:0 x1 1:3",
        "p fifo 640 0:0 x1 ",
    ];
    assert_eq!(mounted.listing(), expected);
    assert_eq!(
        fs::metadata(mounted.at("lib")).unwrap().mtime(),
        1_700_000_000
    );
}

#[test]
fn lost_and_found_of_the_image() {
    let layer = Tar::new()
        .dir_mode("lost+found", 0o700)
        .file("lost+found/x", b"x")
        .end();
    built(&[layer], &options());
    let hidden = [
        Tar::new().whiteout(".wh.lost+found").end(),
        Tar::new().dir("lost+found").end(),
    ];
    built(&hidden, &options());
    let layer = Tar::new().file("lost+found", b"").end();
    let error = try_build(&[layer], &options()).unwrap_err();
    assert!(matches!(
        error,
        Error::Unstorable {
            fault: Fault::LostAndFound,
            ..
        }
    ));
}

#[test]
fn limits() {
    let layer = Tar::new()
        .file("a/b/c", &[1; 1000])
        .file("d", &[1; 1000])
        .end();
    for (limits, what) in [
        (
            Limits {
                entries: 1,
                ..Limits::default()
            },
            "entries",
        ),
        (
            Limits {
                entries: 3,
                ..Limits::default()
            },
            "entries",
        ),
        (
            Limits {
                content_bytes: 1999,
                ..Limits::default()
            },
            "bytes of content",
        ),
    ] {
        match try_build(
            std::slice::from_ref(&layer),
            &Options {
                limits,
                ..options()
            },
        ) {
            Err(Error::Limit { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{other:?}"),
        }
    }
    let limits = Limits {
        path_bytes: 4,
        ..Limits::default()
    };
    assert!(
        try_build(
            &[layer],
            &Options {
                limits,
                ..options()
            }
        )
        .is_err()
    );
}

#[test]
fn as_many_hardlinks_as_the_kernel_allows() {
    for (names, fits) in [(65_000, true), (65_001, false)] {
        let (image, options) = (image(), options());
        let mut builder = Builder::new(image.as_file(), &options).unwrap();
        builder
            .file(b"0", &Attributes::new(0o600), 0, std::io::empty())
            .unwrap();
        for i in 1..names {
            builder.hardlink(i.to_string().as_bytes(), b"0").unwrap();
        }
        match builder.finish() {
            Ok(_) => {
                assert!(fits);
                fsck(image.path());
            }
            Err(Error::Unstorable {
                fault: Fault::Links,
                ..
            }) => assert!(!fits),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn options_are_checked() {
    let used = image();
    used.as_file().set_len(1).unwrap();
    let result = format_empty(used.as_file(), 8 << 20, &options());
    assert!(matches!(result, Err(Error::NotEmpty)));
    for wrong in [
        Options {
            label: "x".repeat(17),
            ..options()
        },
        Options {
            uuid: [0; 16],
            ..options()
        },
    ] {
        let result = format_empty(image().as_file(), 8 << 20, &wrong);
        assert!(matches!(result, Err(Error::Option { .. })));
    }
}

#[test]
fn offline_growth() {
    let layer = Tar::new().file("f", &vec![7; 1 << 20]).end();
    let (image, _) = built(&[layer], &options());
    image.as_file().set_len(20 << 30).unwrap();
    run(Command::new("/usr/sbin/resize2fs")
        .arg("-f")
        .arg(image.path()));
    fsck(image.path());
}
