//! Shared by the tests: fsck, and the kernel's view of an image.

#![allow(dead_code, unreachable_pub)]

pub mod tar;

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use lib_fs::{Error, Layer, Options, Summary, build};
pub use tar::Tar;
use tempfile::{NamedTempFile, TempDir};

pub fn image() -> NamedTempFile {
    NamedTempFile::new().unwrap()
}

/// Builds from layers, topmost first, without looking at the result.
pub fn try_build(layers: &[Vec<u8>], options: &Options) -> Result<(NamedTempFile, Summary), Error> {
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
        run(Command::new("mount")
            .arg("-o")
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
