//! Large things: half a million entries in little memory, far offsets, deep extent trees, and no
//! byte written that is not in the image.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use common::{Mounted, Tar, debugfs, fsck, fsck_erofs, skip_mount};
use lib_fs::{Compression, Format, Layer, Options, Summary, build, build_direct};

const FORMATS: [(&str, Format); 2] = [
    ("ext4", Format::Ext4),
    ("erofs", Format::Erofs(Compression::Lz4)),
];

/// A layer that is made while it is read, entry by entry.
struct Generated<F> {
    next: u32,
    entries: u32,
    entry: F,
    buffer: Vec<u8>,
    at: usize,
}

impl<F: Fn(Tar, u32) -> Tar> Generated<F> {
    fn new(entries: u32, entry: F) -> Self {
        Generated {
            next: 0,
            entries,
            entry,
            buffer: Vec::new(),
            at: 0,
        }
    }
}

impl<F: Fn(Tar, u32) -> Tar> Read for Generated<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() && self.next < self.entries {
            self.buffer = (self.entry)(Tar::new(), self.next).bytes;
            self.next += 1;
            self.at = 0;
        }
        let n = (&self.buffer[self.at..]).read(buffer)?;
        self.at += n;
        Ok(n)
    }
}

/// What a process of its own, which only builds, said of itself.
struct Report {
    /// Most memory it had, in bytes.
    peak: u64,
    /// Bytes it wrote.
    written: u64,
    used: u64,
    image: u64,
}

/// Builds in a process of its own: runs the test `child` of this program.
fn build_apart(case: &str, format: &str, image: &Path) -> Report {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("SCALE_CASE", case)
        .env("SCALE_FORMAT", format)
        .env("SCALE_IMAGE", image)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let number = |key: &str| {
        let rest = said
            .split_once(key)
            .unwrap_or_else(|| panic!("{key}: {said}"))
            .1;
        let digits = rest
            .trim_start()
            .split(|c: char| !c.is_ascii_digit())
            .next();
        digits.unwrap().parse::<u64>().unwrap()
    };
    Report {
        peak: number("VmHWM:") * 1024,
        written: number("written:"),
        used: number("used:"),
        image: number("image:"),
    }
}

fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
#[ignore = "a part of other tests, which run it in a process of its own"]
fn child() {
    let Ok(case) = std::env::var("SCALE_CASE") else {
        return;
    };
    let format = std::env::var("SCALE_FORMAT").unwrap();
    let (_, format) = FORMATS
        .into_iter()
        .find(|(name, _)| *name == format)
        .unwrap();
    let image = common::open(Path::new(&std::env::var_os("SCALE_IMAGE").unwrap()));
    let options = Options {
        format,
        ..Options::default()
    };
    let before = written();
    let summary = match &case[..] {
        "entries" => entries(&image, &options),
        "hidden" => hidden(&image, &options),
        other => panic!("{other}"),
    };
    let written = written() - before;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    println!(
        "{peak}\nwritten: {written}\nused: {}\nimage: {}",
        summary.used_bytes, summary.image_bytes
    );
}

const ENTRIES: u32 = 500_000;

/// As many entries as asked for in two layers: directories, files with and without content, links.
fn entries(image: &File, options: &Options) -> Summary {
    let name = |i: u32| {
        format!(
            "usr/share/part-{:03}/module-{:04}/some-name-{i:06}",
            i / 5000,
            i / 50
        )
    };
    let entry = move |tar: Tar, i: u32| match i % 50 {
        0 => tar.dir(&format!(
            "usr/share/part-{:03}/module-{:04}",
            i / 5000,
            i / 50
        )),
        1 => tar.symlink(&name(i), b"../module-0000/some-name-000007"),
        2 => tar.link(&name(i), &name(i - i % 50 + 7)),
        3..10 => tar.file(&name(i), name(i).as_bytes()),
        _ => tar.file(&name(i), b""),
    };
    // A hardlink's target comes first.
    let ordered = move |tar: Tar, i: u32| {
        let first = i - i % 50;
        entry(tar, first + (i % 50 + 5) % 50)
    };
    let lower = Generated::new(ENTRIES - 1000, ordered);
    let upper = Generated::new(1000, |tar, i| {
        tar.file(&format!("usr/share/new-{i:04}"), b"new")
    });
    let layers = [Layer::new("upper", upper), Layer::new("lower", lower)];
    build(layers, image, options, &|_| {}).unwrap()
}

#[test]
fn half_a_million_entries_fit_into_128_mib() {
    for (name, _) in FORMATS {
        let image = common::image();
        let report = build_apart("entries", name, image.path());
        assert!(report.peak < 128 << 20, "{name}: {} bytes", report.peak);
        // The counts of names of small files are written again.
        let Report { written, used, .. } = report;
        assert!(
            written <= used + 4 * 10_000,
            "{name}: {written} bytes written, {used} used"
        );
        match name {
            "ext4" => fsck(image.path()),
            _ => fsck_erofs(image.path()),
        }
        println!("{name}: peak {} KiB", report.peak >> 10);
        if skip_mount() {
            continue;
        }
        let mounted = Mounted::of_type(name, image.path(), "ro");
        let module = "usr/share/part-049/module-4999";
        let path = format!("{module}/some-name-249957");
        assert_eq!(fs::read_to_string(mounted.at(&path)).unwrap(), path);
        assert_eq!(fs::metadata(mounted.at(&path)).unwrap().nlink(), 2);
        assert_eq!(fs::read_dir(mounted.at(module)).unwrap().count(), 49);
        assert_eq!(fs::read_dir(mounted.at("usr/share")).unwrap().count(), 1100);
    }
}

/// Bytes without a pattern, the same every time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d ^ seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let bytes = (0..length.div_ceil(8)).flat_map(|_| next());
    bytes.take(length).collect()
}

/// Most of the lower layer is hidden: replaced, whited out, below a file, in an opaque directory;
/// one hidden file has another name.
fn hidden(image: &File, options: &Options) -> Summary {
    let mut lower = Tar::new();
    for (i, name) in [
        "replaced",
        "gone",
        "dir/below",
        "opaque/old",
        "named",
        "kept",
    ]
    .iter()
    .enumerate()
    {
        lower = lower.file(name, &noise(i as u64, 4 << 20));
    }
    let lower = lower.link("other-name", "named").end();
    let mut upper = Tar::new().file("replaced", &noise(9, 1 << 20));
    for marker in [".wh.gone", ".wh.named", "opaque/.wh..wh..opq"] {
        upper = upper.whiteout(marker);
    }
    let upper = upper
        .file("dir", b"a file now")
        .file("zeros", &[0; 3 << 20])
        .end();
    let layers = [&upper, &lower].map(|bytes| Layer {
        name: "layer".into(),
        open: Box::new(move || Ok(Box::new(&bytes[..]))),
        again: true,
    });
    let options = Options {
        journal: false,
        ..options.clone()
    };
    build(layers, image, &options, &|_| {}).unwrap()
}

#[test]
fn writes_past_the_page_cache_make_the_same_image() {
    // Long and short files, blocks that are given back and used again, holes.
    let mut tar = Tar::new();
    for i in 0..40_u64 {
        let length = [3 << 20, 70_000, 4096, 9][i as usize % 4] + 13 * i as usize;
        tar = tar.file(&format!("f{}", i % 29), &noise(i, length));
    }
    let tar = tar.file("zeros", &[0; 3 << 20]).end();
    for (name, format) in FORMATS {
        let options = Options {
            format,
            ..Options::default()
        };
        let (cached, past) = (common::image(), common::image());
        let layers = || [Layer::new("layer", &tar[..])];
        build(layers(), cached.as_file(), &options, &|_| {}).unwrap();
        let mut direct = File::options();
        direct.write(true).custom_flags(nix::libc::O_DIRECT);
        // Some file systems have no such writes; then this is refused, and what was given to the
        // page cache instead must be right.
        let direct = direct.open(past.path());
        let direct = direct.or_else(|_| File::open(past.path())).unwrap();
        build_direct(layers(), past.as_file(), direct, &options, &|_| {}).unwrap();
        let [cached, past] = [cached, past].map(|image| fs::read(image.path()).unwrap());
        assert!(cached == past, "{name}");
    }
}

#[test]
fn only_what_is_in_the_image_is_written() {
    for (name, _) in FORMATS {
        let image = common::image();
        let Report {
            written,
            used,
            image: size,
            ..
        } = build_apart("hidden", name, image.path());
        assert!(
            written <= used,
            "{name}: {written} bytes written, {used} used"
        );
        let content = 9 << 20;
        assert!(
            used > content && used < content + (1 << 20),
            "{name}: {used}"
        );
        let stored = image.as_file().metadata().unwrap().blocks() * 512;
        assert!(stored <= used && used <= size, "{name}: {stored} stored");
        match name {
            "ext4" => fsck(image.path()),
            _ => fsck_erofs(image.path()),
        }
        if skip_mount() {
            continue;
        }
        let mounted = Mounted::of_type(name, image.path(), "ro");
        assert!(fs::read(mounted.at("other-name")).unwrap() == noise(4, 4 << 20));
        assert!(fs::read(mounted.at("replaced")).unwrap() == noise(9, 1 << 20));
        assert!(!mounted.at("named").exists());
    }
}

#[test]
fn a_file_of_terabytes_and_one_of_many_holes() {
    // Every other block of 4 KiB has one byte: nothing can be joined.
    let pieces: Vec<(u64, u64)> = (0..3000).map(|i| (i * 8192, 1)).collect();
    let far = [(5u64 << 30, 5000u64), (15 << 40, 5000)];
    let sparse = |map: &[(u64, u64)], size: u64, name: &str, tar: Tar| {
        let lines = map
            .iter()
            .map(|(offset, length)| format!("{offset}\n{length}\n"));
        let mut bytes = format!("{}\n{}", map.len(), lines.collect::<String>()).into_bytes();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let stored: u64 = map.iter().map(|piece| piece.1).sum();
        bytes.extend((0..stored).map(|i| (i % 251) as u8 + 1));
        tar.pax("GNU.sparse.major", b"1")
            .pax("GNU.sparse.minor", b"0")
            .pax("GNU.sparse.realsize", size.to_string().as_bytes())
            .file(name, &bytes)
    };
    let tar = sparse(&pieces, 30_000 * 8192, "deep", Tar::new());
    let tar = sparse(&far, (15 << 40) + 5000, "far", tar).end();
    for (name, format) in FORMATS {
        let image = common::image();
        let options = Options {
            format,
            ..Options::default()
        };
        build(
            [Layer::new("layer", &tar[..])],
            image.as_file(),
            &options,
            &|_| {},
        )
        .unwrap();
        if name == "ext4" {
            fsck(image.path());
            let extents = debugfs(image.path(), "ex -n /deep");
            assert!(extents.contains(" 0/ 2 "), "{extents}");
        }
        let stored = image.as_file().metadata().unwrap().blocks() * 512;
        assert!(stored < 40 << 20, "{name}: {stored} bytes stored");
        if skip_mount() {
            continue;
        }
        let mounted = Mounted::of_type(name, image.path(), "ro");
        let deep = File::open(mounted.at("deep")).unwrap();
        for i in (0..3000u64).step_by(97) {
            let mut bytes = [9; 3];
            deep.read_exact_at(&mut bytes, i * 8192).unwrap();
            assert_eq!(bytes, [(i % 251) as u8 + 1, 0, 0], "{name}: {i}");
        }
        let file = File::open(mounted.at("far")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (15 << 40) + 5000);
        for (at, first) in [(5u64 << 30, 0), (15 << 40, 5000)] {
            let mut bytes = vec![0; 5000];
            file.read_exact_at(&mut bytes, at).unwrap();
            let expected: Vec<u8> = (first..first + 5000).map(|i| (i % 251) as u8 + 1).collect();
            assert_eq!(bytes, expected, "{name}: {at}");
            file.read_exact_at(&mut bytes, at - 5000).unwrap();
            assert_eq!(bytes, vec![0; 5000]);
        }
    }
}
