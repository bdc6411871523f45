//! What an output is, told by its content.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, Layers, StorePath, System};

/// Enough for the superblock of ext4, and for the first member of a tar.
const HEAD: u64 = 4096;
/// Of a description of nix2container; it names every path of the closure.
const LARGEST_DOCUMENT: u64 = 64 << 20;
/// Folders in which nixpkgs puts what it makes of a NixOS system.
const FOLDERS: [&str; 3] = ["tarball", "sd-image", "iso"];
/// What says how to publish a package, and is no part of it.
const NO_CONTENT: &str = "nix-support";

/// What was built.
#[derive(Debug)]
pub enum Output {
    /// A NixOS system.
    System(System),
    /// An archive of an image or of a root file system, perhaps compressed.
    Archive(PathBuf),
    /// A disk.
    Disk(PathBuf, Disk),
    /// A program that writes an archive to its standard output, as `streamLayeredImage` makes.
    Program,
    /// A description of nix2container.
    Layers(Box<Layers>),
    /// Anything else that is a directory.
    Closure,
}

/// Formats of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// An ext4 file system, without partitions.
    Ext4,
    /// A disk with partitions.
    Partitioned,
    /// QEMU's format.
    Qcow2,
}

/// Tells what an output is.
///
/// # Errors
/// [`Error::Unknown`] with what it is; [`Error::Bootspec`], [`Error::Layers`].
pub fn classify(output: &StorePath) -> Result<Output, Error> {
    let path = output.path();
    let metadata = path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Vanished(output.clone()),
        _ => Error::io("read", path)(error),
    })?;
    if metadata.is_dir() {
        if let Some(system) = System::read(output)? {
            return Ok(Output::System(system));
        }
        return match only_file(path)? {
            Some(file) => match form(&head(&file)?) {
                Form::Archive => Ok(Output::Archive(file)),
                Form::Disk(disk) => Ok(Output::Disk(file, disk)),
                _ => Ok(Output::Closure),
            },
            None => Ok(Output::Closure),
        };
    }
    let unknown = |found: &str| {
        Err(Error::Unknown {
            path: output.clone(),
            found: found.to_owned(),
        })
    };
    let head = head(path)?;
    match form(&head) {
        Form::Archive => Ok(Output::Archive(path.to_owned())),
        Form::Disk(disk) => Ok(Output::Disk(path.to_owned(), disk)),
        Form::Program if metadata.mode() & 0o100 != 0 => Ok(Output::Program),
        Form::Program => unknown("it is a program that is not executable"),
        Form::Document => match layers(output, metadata.len())? {
            Some(layers) => Ok(Output::Layers(Box::new(layers))),
            None => unknown("it is a JSON file, but no image description of nix2container"),
        },
        Form::Iso => unknown("it is an ISO image, for installation"),
        Form::Derivation => unknown("it is a derivation, not its output"),
        Form::Empty => unknown("it is an empty file"),
        Form::Text => unknown("it is a text file"),
        Form::Other => unknown("it is a file of an unknown format"),
    }
}

fn layers(output: &StorePath, length: u64) -> Result<Option<Layers>, Error> {
    if length > LARGEST_DOCUMENT {
        return Ok(None);
    }
    let path = output.path();
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    Layers::parse(output, &bytes)
}

/// The one file of a directory that has nothing else, as the makers of disks and archives leave it.
fn only_file(directory: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |error| Error::io("read", directory)(error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != NO_CONTENT {
            entries.push(entry.path());
        }
    }
    let [only] = &entries[..] else {
        return Ok(None);
    };
    let name = only.file_name().unwrap_or_default();
    if only.is_dir() && FOLDERS.iter().any(|folder| name == *folder) {
        return only_file(only);
    }
    Ok(only.is_file().then(|| only.clone()))
}

fn head(path: &Path) -> Result<Vec<u8>, Error> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD).read_to_end(&mut head))
        .map_err(Error::io("read", path))?;
    if head.len() as u64 == HEAD {
        // An ISO says so later than all else.
        let mut more = [0; 5];
        let read = File::open(path)
            .and_then(|file| std::os::unix::fs::FileExt::read_at(&file, &mut more, ISO_AT))
            .map_err(Error::io("read", path))?;
        if read == more.len() && more == *ISO {
            return Ok(ISO.to_vec());
        }
    }
    Ok(head)
}

/// ECMA-119: the first volume descriptor is in sector 16.
const ISO_AT: u64 = 16 * 2048 + 1;
const ISO: &[u8; 5] = b"CD001";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Archive,
    Disk(Disk),
    Program,
    Document,
    Iso,
    Derivation,
    Empty,
    Text,
    Other,
}

fn form(head: &[u8]) -> Form {
    match head {
        [] => Form::Empty,
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Form::Archive,
        // xz and bzip2: the importer says what it lacks.
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] | [b'B', b'Z', b'h', ..] => Form::Archive,
        [b'Q', b'F', b'I', 0xfb, ..] => Form::Disk(Disk::Qcow2),
        [0x7f, b'E', b'L', b'F', ..] | [b'#', b'!', ..] => Form::Program,
        [b'C', b'D', b'0', b'0', b'1'] => Form::Iso,
        [b'D', b'e', b'r', b'i', b'v', b'e', b'(', ..] => Form::Derivation,
        _ if head.get(257..262) == Some(b"ustar") => Form::Archive,
        _ if head.get(1080..1082) == Some(&[0x53, 0xef]) => Form::Disk(Disk::Ext4),
        _ if head.get(510..512) == Some(&[0x55, 0xaa]) => Form::Disk(Disk::Partitioned),
        _ if head.trim_ascii_start().starts_with(b"{") => Form::Document,
        _ if std::str::from_utf8(head).is_ok() => Form::Text,
        _ => Form::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_their_first_bytes() {
        let at = |offset: usize, bytes: &[u8]| {
            let mut head = vec![0; 4096];
            head[offset..offset + bytes.len()].copy_from_slice(bytes);
            head
        };
        for (head, expected) in [
            (at(257, b"ustar"), Form::Archive),
            (at(0, b"\x1f\x8b"), Form::Archive),
            (at(0, b"QFI\xfb"), Form::Disk(Disk::Qcow2)),
            (at(1080, b"\x53\xef"), Form::Disk(Disk::Ext4)),
            (at(510, b"\x55\xaa"), Form::Disk(Disk::Partitioned)),
            (b"#! /nix/store/x/bin/bash -e\n".to_vec(), Form::Program),
            (b" {\"version\":1}".to_vec(), Form::Document),
            (b"Derive([(\"out\"".to_vec(), Form::Derivation),
            (b"hello\n".to_vec(), Form::Text),
            (at(0, b"\xff"), Form::Other),
            (Vec::new(), Form::Empty),
        ] {
            assert_eq!(form(&head), expected);
        }
    }

    #[test]
    fn a_lone_file_stands_for_its_directory() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("tarball/system.tar");
        fs::create_dir(place.path().join("tarball")).unwrap();
        fs::write(&file, "").unwrap();
        fs::create_dir(place.path().join("nix-support")).unwrap();
        assert_eq!(only_file(place.path()).unwrap(), Some(file));
        fs::write(place.path().join("other"), "").unwrap();
        assert_eq!(only_file(place.path()).unwrap(), None);
        let head = |file: &str| head(&place.path().join(file)).unwrap();
        let mut iso = vec![0; 40_000];
        iso[32_769..32_774].copy_from_slice(b"CD001");
        fs::write(place.path().join("iso"), iso).unwrap();
        assert_eq!(form(&head("iso")), Form::Iso);
    }
}
