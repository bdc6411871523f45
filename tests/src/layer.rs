//! Layers of images, entry by entry, compressed or not.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

/// One entry of a layer.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Path and mode.
    Directory(String, u32),
    /// Path, mode, content.
    File(String, u32, Vec<u8>),
    /// Path, target.
    Symlink(String, String),
    /// Path, target: another name of the same file.
    Hardlink(String, String),
    /// Path, major, minor.
    CharDevice(String, u32, u32),
}

/// How the blob of a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, by the library.
    Gzip,
    /// zstd, by its own program.
    Zstd,
}

/// A blob and the digest of what is in it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// As it goes over the wire.
    pub blob: Vec<u8>,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Media type of the blob (OCI image-spec, layer.md).
    pub media_type: &'static str,
}

/// `sha256:` and hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Layer {
    /// Packs entries.
    ///
    /// # Errors
    /// When an entry cannot be written, or `zstd` is missing.
    pub fn new(entries: &[Entry], compression: Compression) -> io::Result<Layer> {
        Layer::from_tar(&tar_of(entries)?, compression)
    }

    /// Packs a tar.
    ///
    /// # Errors
    /// When `zstd` is missing.
    pub fn from_tar(tar: &[u8], compression: Compression) -> io::Result<Layer> {
        let (blob, media_type) = match compression {
            Compression::None => (tar.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Compression::Gzip => (gzip(tar)?, "application/vnd.oci.image.layer.v1.tar+gzip"),
            Compression::Zstd => (zstd(tar)?, "application/vnd.oci.image.layer.v1.tar+zstd"),
        };
        Ok(Layer {
            blob,
            diff_id: sha256(tar),
            media_type,
        })
    }

    /// Digest of the blob.
    pub fn digest(&self) -> String {
        sha256(&self.blob)
    }
}

/// Entries as a tar; names are written as given, however bad.
///
/// # Errors
/// When a name does not fit.
pub(crate) fn tar_of(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let (path, kind, mode, content): (_, _, _, &[u8]) = match entry {
            Entry::Directory(path, mode) => (path, tar::EntryType::Directory, *mode, &[]),
            Entry::File(path, mode, content) => (path, tar::EntryType::Regular, *mode, content),
            Entry::Symlink(path, _) => (path, tar::EntryType::Symlink, 0o777, &[]),
            Entry::Hardlink(path, _) => (path, tar::EntryType::Link, 0o644, &[]),
            Entry::CharDevice(path, ..) => (path, tar::EntryType::Char, 0o666, &[]),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        // `set_path` would refuse what hostile images have.
        let field = &mut header.as_old_mut().name;
        if path.len() > field.len() {
            return Err(io::Error::other(format!("the name {path} is too long")));
        }
        field[..path.len()].copy_from_slice(path.as_bytes());
        match entry {
            Entry::Symlink(_, target) | Entry::Hardlink(_, target) => {
                header.set_link_name_literal(target)?;
            }
            Entry::CharDevice(_, major, minor) => {
                header.set_device_major(*major)?;
                header.set_device_minor(*minor)?;
            }
            _ => {}
        }
        header.set_cksum();
        builder.append(&header, content)?;
    }
    builder.into_inner()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn zstd(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut child = Command::new("zstd")
        .args(["--quiet", "--stdout", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let input = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let mut packed = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut packed)?;
    }
    child.wait()?;
    writer
        .join()
        .map_err(|_| io::Error::other("the writer panicked"))??;
    Ok(packed)
}
