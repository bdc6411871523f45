//! What a stream holds, told from its first bytes.

use std::io::Read;

use crate::Error;
use crate::layer::{Compression, compression, decompress};

/// How much of a stream may be looked at.
pub(super) const HEAD: u64 = 1 << 20;

/// Forms of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An OCI or docker archive; which one shows when it has been read.
    Archive,
    /// A root file system as tar.
    RootFs,
}

/// Tells the form from the head of a stream.
///
/// # Errors
/// [`Error::Compression`], [`Error::NotAnImage`] with what it looks like.
pub(super) fn form(head: &[u8], what: &str) -> Result<Form, Error> {
    let not = |reason: &str| {
        Err(Error::NotAnImage {
            what: what.to_owned(),
            reason: reason.to_owned(),
        })
    };
    if head.is_empty() {
        return not("it is empty");
    }
    if let Compression::Unsupported(format) = compression(head) {
        return Err(Error::Compression {
            what: what.to_owned(),
            format,
        });
    }
    if let Some(reason) = other_format(head) {
        return not(reason);
    }
    let mut start = Vec::new();
    // The head of a compressed stream ends in the middle: what was decoded until then counts.
    if let Ok(mut reader) = decompress(head, what) {
        let _ = (&mut reader).take(HEAD).read_to_end(&mut start);
    }
    if start.is_empty() {
        return not("its compressed data is damaged");
    }
    let mut archive = tar::Archive::new(&start[..]);
    let Ok(entries) = archive.entries() else {
        return not("it cannot be read");
    };
    for (index, entry) in entries.enumerate() {
        let Ok(entry) = entry else {
            if index == 0 {
                return not("it is no tar archive");
            }
            break;
        };
        let path = entry.path_bytes();
        let name = plain(&path);
        if name.is_empty() {
            continue;
        }
        return Ok(if is_archive_member(name) {
            Form::Archive
        } else {
            Form::RootFs
        });
    }
    Ok(Form::RootFs)
}

/// A member's name without leading and trailing slashes and dots.
pub(super) fn plain(path: &[u8]) -> &[u8] {
    let mut name = path;
    loop {
        name = match name {
            b"." => &[],
            [b'/', rest @ ..] | [b'.', b'/', rest @ ..] | [rest @ .., b'/'] => rest,
            _ => return name,
        };
    }
}

/// The first member of an image archive has one of these names, whoever wrote it.
fn is_archive_member(name: &[u8]) -> bool {
    let first = name.split(|&b| b == b'/').next().unwrap_or(name);
    let stem = first.split(|&b| b == b'.').next().unwrap_or(first);
    matches!(
        first,
        b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories" | b"blobs"
    ) || (stem.len() == 64 && stem.iter().all(u8::is_ascii_hexdigit))
}

/// Formats that people try.
fn other_format(head: &[u8]) -> Option<&'static str> {
    match head {
        [b'Q', b'F', b'I', 0xfb, ..] => Some("it is a qcow2 disk, which cannot be imported yet"),
        [0x7f, b'E', b'L', b'F', ..] => {
            Some("it is an ELF file (a kernel? banger-image kernel import)")
        }
        [b'P', b'K', 3, 4, ..] => Some("it is a zip archive"),
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => {
            Some("it is a .deb package (a kernel? banger-image kernel import)")
        }
        _ if head.get(1080..1082) == Some(&[0x53, 0xef]) => {
            Some("it is an ext4 file system, which is imported from a file only")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(if name.ends_with('/') {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn archives_are_told_from_root_file_systems() {
        let layer = format!("/{}/layer.tar", "ab".repeat(32));
        let config = format!("{}.json", "ab".repeat(32));
        for (names, expected) in [
            (&["./", "./oci-layout"][..], Form::Archive),
            (&["blobs/", "blobs/sha256/"], Form::Archive),
            (&[&layer, "manifest.json"], Form::Archive),
            (&[&config], Form::Archive),
            (&["./", "./bin/", "./manifest.json"], Form::RootFs),
            (&["etc/passwd"], Form::RootFs),
            (&["./"], Form::RootFs),
        ] {
            let bytes = tar(names);
            assert_eq!(form(&bytes, "x").unwrap(), expected, "{names:?}");
            let packed = zstd::encode_all(&bytes[..], 1).unwrap();
            assert_eq!(form(&packed, "x").unwrap(), expected, "{names:?}");
        }
    }

    #[test]
    fn other_files_are_refused_with_what_they_are() {
        for (head, expected) in [
            (&b""[..], "empty"),
            (b"\x7fELF....", "kernel import"),
            (b"hello, this is text", "no tar"),
            (b"\x1f\x8b\x08\x00garbage", "damaged"),
            (b"\xfd7zXZ\0", "xz"),
        ] {
            let error = form(head, "f").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
