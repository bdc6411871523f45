//! Shared by the tests: a writer of exact tar bytes, fsck, and the kernel's view of an image.

#![allow(dead_code)]

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use lib_fs::{Error, Layer, Options, Summary, build};
use tempfile::{NamedTempFile, TempDir};

/// A tar archive under construction.
#[derive(Clone, Default)]
pub struct Tar {
    pub bytes: Vec<u8>,
    pax: Vec<u8>,
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// A PAX record for the next entry.
    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while rest + len.to_string().len() != len {
            len += 1;
        }
        self.pax.extend_from_slice(format!("{len} {key}=").as_bytes());
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
        self
    }

    pub fn entry(mut self, kind: u8, path: &[u8], set: impl Fn(&mut Header), data: &[u8]) -> Self {
        let mut path = path;
        if path.len() > 100 {
            self = self.pax("path", path);
            path = b"long";
        }
        if !self.pax.is_empty() {
            let pax = std::mem::take(&mut self.pax);
            self.record(b'x', b"pax", |header| header.size(pax.len() as u64), &pax);
        }
        self.record(kind, path, set, data);
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(b'0', path.as_bytes(), |header| header.size(data.len() as u64), data)
    }

    pub fn dir(self, path: &str) -> Self {
        self.dir_mode(path, 0o755)
    }

    pub fn dir_mode(self, path: &str, mode: u32) -> Self {
        self.entry(b'5', path.as_bytes(), |header| header.mode(mode), b"")
    }

    pub fn symlink(mut self, path: &str, target: &[u8]) -> Self {
        if target.len() > 100 {
            self = self.pax("linkpath", target);
            return self.entry(b'2', path.as_bytes(), |_| {}, b"");
        }
        self.entry(b'2', path.as_bytes(), |header| header.link(target), b"")
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), |header| header.link(target.as_bytes()), b"")
    }

    pub fn whiteout(self, path: &str) -> Self {
        self.file(path, b"")
    }

    /// Ends the archive.
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    fn record(&mut self, kind: u8, path: &[u8], set: impl Fn(&mut Header), data: &[u8]) {
        let mut header = Header { raw: [0; 512] };
        header.raw[..path.len()].copy_from_slice(path);
        header.raw[156] = kind;
        header.raw[257..265].copy_from_slice(b"ustar\x0000");
        header.mode(0o644);
        header.octal(108, 8, 0);
        header.octal(116, 8, 0);
        header.size(0);
        header.octal(136, 12, 1_600_000_000);
        set(&mut header);
        header.sum();
        self.bytes.extend_from_slice(&header.raw);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }
}

pub struct Header {
    pub raw: [u8; 512],
}

impl Header {
    pub fn octal(&mut self, at: usize, len: usize, value: u64) {
        let text = format!("{value:0width$o}\0", width = len - 1);
        self.raw[at..at + len].copy_from_slice(text.as_bytes());
    }

    pub fn base256(&mut self, at: usize, len: usize, value: i64) {
        self.raw[at..at + len].fill(if value < 0 { 0xff } else { 0 });
        self.raw[at + len - 8..at + len].copy_from_slice(&value.to_be_bytes());
        self.raw[at] |= 0x80;
    }

    pub fn mode(&mut self, mode: u32) {
        self.octal(100, 8, u64::from(mode));
    }

    pub fn size(&mut self, size: u64) {
        self.octal(124, 12, size);
    }

    pub fn device(&mut self, major: u64, minor: u64) {
        self.octal(329, 8, major);
        self.octal(337, 8, minor);
    }

    pub fn link(&mut self, target: &[u8]) {
        self.raw[157..157 + target.len()].copy_from_slice(target);
    }

    fn sum(&mut self) {
        self.raw[148..156].fill(b' ');
        let sum: u64 = self.raw.iter().map(|&byte| u64::from(byte)).sum();
        self.octal(148, 7, sum);
    }
}

pub fn image() -> NamedTempFile {
    NamedTempFile::new().unwrap()
}

/// Builds from layers, topmost first, without looking at the result.
pub fn try_build(
    layers: &[Vec<u8>],
    options: &Options,
) -> Result<(NamedTempFile, Summary), Error> {
    let image = image();
    let layers = layers
        .iter()
        .enumerate()
        .map(|(i, bytes)| Layer::new(format!("layer{i}"), &bytes[..]));
    let summary = build(layers, image.as_file(), options, &|_| {})?;
    Ok((image, summary))
}

/// Builds and checks.
pub fn built(layers: &[Vec<u8>], options: &Options) -> (NamedTempFile, Summary) {
    let (image, summary) = try_build(layers, options).unwrap();
    fsck(image.path());
    assert_eq!(image.as_file().metadata().unwrap().len(), summary.image_bytes);
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
        line.is_empty() || line.starts_with("Pass ") || line.contains(" files (") && line.contains(" blocks")
    };
    let odd: Vec<&str> = text.lines().filter(|line| !known(line)).collect();
    assert!(output.status.success() && odd.is_empty(), "{text}");
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

/// Whether tests that mount were asked to be skipped.
pub fn skip_mount() -> bool {
    let skip = std::env::var("BANGER_TEST_SKIP").unwrap_or_default();
    let skipped = skip.split(',').any(|word| word.trim() == "mount");
    if skipped {
        println!("SKIPPED: mount");
    }
    skipped
}

/// An image mounted by the kernel.
pub struct Mounted {
    directory: TempDir,
}

impl Mounted {
    pub fn new(image: &Path, options: &str) -> Self {
        let directory = TempDir::new().unwrap();
        run(Command::new("mount").arg("-o").arg(format!("loop,{options}")).arg(image).arg(directory.path()));
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
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let name = path.strip_prefix(self.path()).unwrap().to_string_lossy().into_owned();
            lines.push(format!("{name} {}", describe(&path)));
        }
        lines.sort();
        lines
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.directory.path()).status();
    }
}

/// Type, mode, owner, links, and content, target or device number.
pub fn describe(path: &Path) -> String {
    let m = fs::symlink_metadata(path).unwrap();
    let kind = m.file_type();
    let (kind, what) = if kind.is_dir() {
        ("dir", String::new())
    } else if kind.is_symlink() {
        ("link", fs::read_link(path).unwrap().to_string_lossy().into_owned())
    } else if kind.is_fifo() {
        ("fifo", String::new())
    } else if kind.is_block_device() || kind.is_char_device() {
        let (major, minor) = (nix::sys::stat::major(m.rdev()), nix::sys::stat::minor(m.rdev()));
        (if kind.is_block_device() { "block" } else { "char" }, format!("{major}:{minor}"))
    } else {
        let bytes = fs::read(path).unwrap();
        match bytes.len() <= 64 {
            true => ("file", format!("{:?}", String::from_utf8_lossy(&bytes))),
            false => ("file", format!("{} bytes", bytes.len())),
        }
    };
    format!("{kind} {:o} {}:{} x{} {what}", m.mode() & 0o7777, m.uid(), m.gid(), m.nlink())
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
