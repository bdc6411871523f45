//! Shared by the tests: fsck, and the kernel's view of an image.

#![allow(dead_code, unreachable_pub)]

pub mod tar;
mod unmount;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use lib_fs::{Error, Format, Layer, Options, Summary, build};
pub use tar::Tar;
use tempfile::{NamedTempFile, TempDir};

pub fn image() -> NamedTempFile {
    NamedTempFile::new().unwrap()
}

/// Builds from layers, topmost first, without looking at the result.
pub fn try_build(layers: &[Vec<u8>], options: &Options) -> Result<(NamedTempFile, Summary), Error> {
    let image = image();
    let layers = layers.iter().enumerate().map(|(i, bytes)| Layer {
        name: format!("layer{i}"),
        open: Box::new(move || Ok(Box::new(&bytes[..]))),
        again: true,
    });
    let summary = build(layers, image.as_file(), options, &|_| {})?;
    Ok((image, summary))
}

/// Builds and checks.
pub fn built(layers: &[Vec<u8>], options: &Options) -> (NamedTempFile, Summary) {
    let (image, summary) = try_build(layers, options).unwrap();
    match options.format {
        Format::Ext4 => fsck(image.path()),
        Format::Erofs(_) => fsck_erofs(image.path()),
    }
    assert_eq!(
        image.as_file().metadata().unwrap().len(),
        summary.image_bytes
    );
    (image, summary)
}

/// Fails unless `e2fsck -fn` finds nothing at all.
pub fn fsck(image: &Path) {
    let output = Command::new("/usr/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(image)
        .env("LC_ALL", "C")
        .output()
        .expect("e2fsck is needed");
    let text = String::from_utf8_lossy(&output.stdout);
    let known = |line: &str| {
        line.is_empty()
            || line.starts_with("Pass ")
            || line.contains(" files (") && line.contains(" blocks")
    };
    let odd: Vec<&str> = text.lines().filter(|line| !known(line)).collect();
    assert!(output.status.success() && odd.is_empty(), "{text}");
}

/// Fails unless `fsck.erofs` finds nothing and reads, and decompresses, every file.
pub fn fsck_erofs(image: &Path) {
    let output = Command::new("/usr/bin/fsck.erofs")
        .arg("--extract")
        .arg(image)
        .output()
        .expect("fsck.erofs is needed");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let odd = said.lines().any(|line| !line.contains("No error"));
    assert!(output.status.success() && !odd, "{said}");
}

/// What debugfs answers to one request.
pub fn debugfs(image: &Path, request: &str) -> String {
    let output = Command::new("/usr/sbin/debugfs")
        .args(["-R", request])
        .arg(image)
        .output()
        .expect("debugfs is needed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether tests that mount, and so need root, were asked to be skipped by name; that is recorded.
pub fn skip_mount() -> bool {
    let skip = std::env::var("BANGER_TEST_SKIP").unwrap_or_default();
    if !skip.split(',').any(|word| word.trim() == "root") {
        return false;
    }
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let log = std::env::var_os("BANGER_TEST_SKIPPED").expect("BANGER_TEST_SKIPPED names a file");
    let mut file = File::options().append(true).create(true).open(log).unwrap();
    writeln!(file, "root {test}").unwrap();
    true
}

/// An image mounted by the kernel.
pub struct Mounted {
    directory: TempDir,
}

impl Mounted {
    pub fn new(image: &Path, options: &str) -> Self {
        Mounted::of_type("ext4", image, options)
    }

    pub fn of_type(filesystem: &str, image: &Path, options: &str) -> Self {
        let directory = TempDir::new().unwrap();
        run(Command::new("mount")
            .args(["-t", filesystem, "-o"])
            .arg(format!("loop,{options}"))
            .arg(image)
            .arg(directory.path()));
        Mounted { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// One line for each path: see [`describe`]. Without `lost+found`.
    pub fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut todo = vec![self.path().to_owned()];
        while let Some(path) = todo.pop() {
            if path.ends_with("lost+found") {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                todo.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
            let name = path
                .strip_prefix(self.path())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            lines.push(format!("{name} {}", describe(&path)));
        }
        lines.sort();
        lines
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = unmount::unmount(self.directory.path());
        if !std::thread::panicking() {
            assert_eq!(done, Ok(()), "unmounted");
        }
    }
}

/// Type, mode, owner, links, and content, target or device number.
pub fn describe(path: &Path) -> String {
    let m = fs::symlink_metadata(path).unwrap();
    let kind = m.file_type();
    let (kind, what) = if kind.is_dir() {
        ("dir", String::new())
    } else if kind.is_symlink() {
        (
            "link",
            fs::read_link(path).unwrap().to_string_lossy().into_owned(),
        )
    } else if kind.is_fifo() {
        ("fifo", String::new())
    } else if kind.is_block_device() || kind.is_char_device() {
        let (major, minor) = (
            nix::sys::stat::major(m.rdev()),
            nix::sys::stat::minor(m.rdev()),
        );
        (
            if kind.is_block_device() {
                "block"
            } else {
                "char"
            },
            format!("{major}:{minor}"),
        )
    } else {
        let bytes = fs::read(path).unwrap();
        match bytes.len() <= 64 {
            true => ("file", format!("{:?}", String::from_utf8_lossy(&bytes))),
            false => ("file", format!("{} bytes", bytes.len())),
        }
    };
    format!(
        "{kind} {:o} {}:{} x{} {what}",
        m.mode() & 0o7777,
        m.uid(),
        m.gid(),
        m.nlink()
    )
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

pub fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Names, targets and sizes at their limits.
pub fn everything() -> Vec<u8> {
    let mut tar = Tar::new().dir_mode("./", 0o751);
    tar = tar
        .dir_mode("d", 0o1777)
        .file("d/small", b"small")
        .file("d/empty", b"");
    tar = tar
        .file("d/block", &[b'b'; 4096])
        .file("d/more", &[b'm'; 4097]);
    tar = tar.file(
        "d/big",
        &(0..3_000_000u32)
            .map(|i| (i % 251) as u8)
            .collect::<Vec<_>>(),
    );
    tar = tar.link("hard", "d/small").link("d/hard2", "hard");
    tar = tar
        .symlink("fast", b"d/small")
        .symlink("fast59", &[b'x'; 59]);
    tar = tar
        .symlink("slow60", &[b'y'; 60])
        .symlink("slow4095", &[b'z'; 4095]);
    tar = tar.entry(b'6', b"fifo", |header| header.mode(0o600), b"");
    tar = tar.entry(b'3', b"char", |header| header.device(5, 1), b"");
    tar = tar.entry(b'4', b"block", |header| header.device(259, 70000), b"");
    tar = tar.entry(b'0', b"\xff\xfe\x80", |header| header.mode(0o4755), b"");
    tar = tar.file(&"n".repeat(255), b"");
    let own = |header: &mut tar::Header| {
        header.base256(108, 8, 4_000_000_000);
        header.octal(116, 8, 65534);
    };
    tar = tar.entry(b'0', b"owned", own, b"");
    tar.pax("uid", b"100000")
        .pax("gid", b"3000000000")
        .file("pax-owned", b"")
        .end()
}

/// What [`Mounted::listing`] says of [`everything`].
pub fn everything_listed() -> Vec<String> {
    let mut expected = vec![
        " dir 751 0:0 x4 ".to_owned(),
        "d dir 1777 0:0 x2 ".into(),
        "d/small file 644 0:0 x3 \"small\"".into(),
        "d/hard2 file 644 0:0 x3 \"small\"".into(),
        "hard file 644 0:0 x3 \"small\"".into(),
        "d/empty file 644 0:0 x1 \"\"".into(),
        "d/block file 644 0:0 x1 4096 bytes".into(),
        "d/more file 644 0:0 x1 4097 bytes".into(),
        "d/big file 644 0:0 x1 3000000 bytes".into(),
        "fast link 777 0:0 x1 d/small".into(),
        format!("fast59 link 777 0:0 x1 {}", "x".repeat(59)),
        format!("slow60 link 777 0:0 x1 {}", "y".repeat(60)),
        format!("slow4095 link 777 0:0 x1 {}", "z".repeat(4095)),
        "fifo fifo 600 0:0 x1 ".into(),
        "char char 644 0:0 x1 5:1".into(),
        "block block 644 0:0 x1 259:70000".into(),
        format!(
            "{} file 4755 0:0 x1 \"\"",
            String::from_utf8_lossy(b"\xff\xfe\x80")
        ),
        format!("{} file 644 0:0 x1 \"\"", "n".repeat(255)),
        "owned file 644 4000000000:65534 x1 \"\"".into(),
        "pax-owned file 644 100000:3000000000 x1 \"\"".into(),
    ];
    expected.sort();
    expected
}

/// An ACL as getxattr(2) returns it: tag, permissions, id.
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// getfattr(1), as values in hexadecimal.
pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let output = Command::new("getfattr")
        .args(["--absolute-names", "-e", "hex", "-n", name])
        .arg(path)
        .output()
        .expect("getfattr is needed");
    let text = String::from_utf8(output.stdout).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let hex = value.strip_prefix("=0x").unwrap_or("");
    let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    Some((0..hex.len()).step_by(2).map(byte).collect())
}
