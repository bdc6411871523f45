//! A tree as the kernel shows it: every file with everything that an image can say of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::unmount::unmount;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) what: What,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// All names of the file, when it has several.
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    /// Size and digest of the content.
    File(u64, String),
    Symlink(Vec<u8>),
    Block(u32, u32),
    Char(u32, u32),
    Fifo,
    Socket,
}

/// Files by path; names that are not UTF-8 are escaped.
pub(crate) type Tree = BTreeMap<String, Node>;

/// Reads the whole tree below `root`, itself included as the empty path.
pub(crate) fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut names: HashMap<u64, Vec<String>> = HashMap::new();
    let mut inodes = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let name = escaped(path.strip_prefix(root).unwrap_or(&path));
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else {
            names.entry(metadata.ino()).or_default().push(name.clone());
            inodes.insert(name.clone(), (metadata.ino(), metadata.nlink()));
        }
        tree.insert(name, node(&path, &metadata)?);
    }
    for (name, (inode, links)) in inodes {
        let mut all = names[&inode].clone();
        all.sort();
        assert_eq!(all.len() as u64, links, "{name}: every link has its name");
        if let Some(node) = tree.get_mut(&name)
            && links > 1
        {
            node.names = all;
        }
    }
    Ok(tree)
}

fn node(path: &Path, metadata: &Metadata) -> io::Result<Node> {
    let kind = metadata.file_type();
    let device = (
        nix::sys::stat::major(metadata.rdev()) as u32,
        nix::sys::stat::minor(metadata.rdev()) as u32,
    );
    let what = if kind.is_dir() {
        What::Directory
    } else if kind.is_symlink() {
        What::Symlink(fs::read_link(path)?.as_os_str().as_bytes().to_vec())
    } else if kind.is_block_device() {
        What::Block(device.0, device.1)
    } else if kind.is_char_device() {
        What::Char(device.0, device.1)
    } else if kind.is_fifo() {
        What::Fifo
    } else if kind.is_socket() {
        What::Socket
    } else {
        What::File(metadata.len(), digest(path)?)
    };
    let mut xattrs = BTreeMap::new();
    for name in xattr::list(path)? {
        let value = xattr::get(path, &name)?.unwrap_or_default();
        xattrs.insert(name.to_string_lossy().into_owned(), value);
    }
    Ok(Node {
        what,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        xattrs,
        names: Vec::new(),
    })
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn escaped(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Symlink(target) => write!(f, "-> {}", target.escape_ascii())?,
            other => write!(f, "{other:?}")?,
        }
        let Node { mode, uid, gid, .. } = self;
        write!(
            f,
            " {mode:04o} {uid}:{gid} {}.{:09}",
            self.mtime.0, self.mtime.1
        )?;
        for (name, value) in &self.xattrs {
            write!(f, " {name}={}", value.escape_ascii())?;
        }
        if !self.names.is_empty() {
            write!(f, " = {:?}", self.names)?;
        }
        Ok(())
    }
}

/// Fails with every difference between two trees.
#[track_caller]
pub(crate) fn assert_equal(actual: &Tree, expected: &Tree) {
    let mut differences = Vec::new();
    for (path, node) in expected {
        match actual.get(path) {
            None => differences.push(format!("{path:?} is missing: {node}")),
            Some(other) if other != node => {
                differences.push(format!("{path:?}\n  is       {other}\n  expected {node}"));
            }
            Some(_) => {}
        }
    }
    for (path, node) in actual {
        if !expected.contains_key(path) {
            differences.push(format!("{path:?} is too much: {node}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// An image that the kernel mounts read-only.
pub(crate) struct Mounted {
    directory: TempDir,
}

impl Mounted {
    pub(crate) fn new(image: &Path, filesystem: &str) -> Mounted {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let output = Command::new("mount")
            .args(["-t", filesystem, "-o", "loop,ro"])
            .arg(image)
            .arg(directory.path())
            .output()
            .expect("mount runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{errors}; without root, run `cargo xtask test --skip root`"
        );
        Mounted { directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = unmount(self.directory.path());
        if !std::thread::panicking() {
            assert_eq!(done, Ok(()), "unmounted");
        }
    }
}
