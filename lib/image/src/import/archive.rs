//! An archive of an image, spooled: its members lie in staging under numbers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use lib_model::Digest;
use lib_store::Staged;
use tar::EntryType;

use super::detect::plain;
use super::layout::Layout;
use crate::blob_writer::BlobWriter;
use crate::blobs::{Blobs, check_digest};
use crate::layer::{Compression, compression};
use crate::manifest::Descriptor;
use crate::pins::Pins;
use crate::{Error, Limits};

/// Links that lead to other links; docker's archives have one step.
const LINK_STEPS: usize = 8;

/// The members of an archive.
pub(super) struct Spool {
    what: String,
    members: BTreeMap<String, Member>,
}

enum Member {
    File(Spooled),
    /// Another member's name.
    Link(String),
}

/// One file of an archive.
#[derive(Debug, Clone)]
pub(super) struct Spooled {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
    path: PathBuf,
}

impl Spool {
    /// Reads an archive to its end. Members called after a digest are checked against it.
    ///
    /// # Errors
    /// [`Error::Archive`], [`Error::DigestMismatch`], [`Error::Limit`].
    pub(super) fn read(
        tar: impl Read,
        staged: &Staged,
        what: &str,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let failed = |source: io::Error| match source.downcast::<Error>() {
            Ok(ours) => ours,
            Err(source) => Error::Archive {
                what: what.to_owned(),
                source,
            },
        };
        let mut members = BTreeMap::new();
        let mut total = 0u64;
        let mut archive = tar::Archive::new(tar);
        for (number, entry) in archive.entries().map_err(failed)?.enumerate() {
            let mut entry = entry.map_err(failed)?;
            let name = text(plain(&entry.path_bytes()));
            let member = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    total = total.saturating_add(entry.size());
                    limits.layer_bytes(what, total)?;
                    let announced = entry.size();
                    let file = spool(&mut entry, staged, number, what)?;
                    // The tar crate ends a cut member as if it were whole.
                    if file.size != announced {
                        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
                    }
                    check_name(&name, &file, what)?;
                    Member::File(file)
                }
                EntryType::Link => match entry.link_name_bytes() {
                    Some(target) => Member::Link(text(plain(&target))),
                    None => continue,
                },
                EntryType::Symlink => match entry.link_name_bytes() {
                    Some(target) => Member::Link(relative(&name, &target)),
                    None => continue,
                },
                _ => continue,
            };
            members.insert(name, member);
        }
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(failed)?;
        Ok(Spool {
            what: what.to_owned(),
            members,
        })
    }

    /// It has an OCI layout. Docker's newer archives have one beside their own manifest.
    pub(super) fn is_oci(&self) -> bool {
        self.members.contains_key("index.json") && self.members.contains_key("oci-layout")
    }

    /// A member by name, through links.
    ///
    /// # Errors
    /// [`Error::MissingMember`].
    pub(super) fn file(&self, name: &str) -> Result<&Spooled, Error> {
        let mut key = text(plain(name.as_bytes()));
        for _ in 0..LINK_STEPS {
            match self.members.get(&key) {
                Some(Member::File(file)) => return Ok(file),
                Some(Member::Link(target)) => key.clone_from(target),
                None => break,
            }
        }
        Err(Error::MissingMember {
            what: self.what.clone(),
            member: name.to_owned(),
        })
    }

    /// The content of a small member.
    ///
    /// # Errors
    /// [`Error::MissingMember`], [`Error::Limit`].
    pub(super) fn document(&self, name: &str, limits: &Limits) -> Result<Vec<u8>, Error> {
        let file = self.file(name)?;
        limits.document(&format!("{name} in {}", self.what), file.size)?;
        fs::read(&file.path).map_err(Error::io("read", &file.path))
    }

    /// Puts a member into the blobs, where a copy of it may be already.
    ///
    /// # Errors
    /// When it cannot be synced or linked.
    pub(super) fn keep(file: &Spooled, pins: &Pins, blobs: &Blobs) -> Result<(), Error> {
        blobs.adopt(pins, &file.path, &file.digest)
    }
}

impl Layout for Spool {
    fn index(&mut self, limits: &Limits) -> Result<Vec<u8>, Error> {
        self.document("index.json", limits)
    }

    fn read(&mut self, blob: &Descriptor, what: &str, limits: &Limits) -> Result<Vec<u8>, Error> {
        let bytes = self.document(&blob_name(&blob.digest), limits)?;
        check_digest(&bytes, &blob.digest, what)?;
        Ok(bytes)
    }

    fn provide(
        &mut self,
        blob: &Descriptor,
        what: &str,
        pins: &Pins,
        blobs: &Blobs,
    ) -> Result<(), Error> {
        let file = self.file(&blob_name(&blob.digest))?;
        let what = what.to_owned();
        if file.digest != blob.digest {
            let (expected, actual) = (blob.digest.clone(), file.digest.clone());
            return Err(Error::DigestMismatch {
                what,
                expected,
                actual,
            });
        }
        if file.size < blob.size {
            let (expected, received) = (blob.size, file.size);
            return Err(Error::Truncated {
                what,
                expected,
                received,
            });
        }
        if file.size > blob.size {
            return Err(Error::TooLong {
                what,
                expected: blob.size,
            });
        }
        Spool::keep(file, pins, blobs)
    }
}

fn spool(
    entry: &mut impl Read,
    staged: &Staged,
    number: usize,
    what: &str,
) -> Result<Spooled, Error> {
    let mut writer = BlobWriter::new(staged, &format!("member-{number}"))?;
    let mut start = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match entry.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                return Err(match source.downcast::<Error>() {
                    Ok(ours) => ours,
                    Err(source) => Error::Archive {
                        what: what.to_owned(),
                        source,
                    },
                });
            }
        };
        if start.len() < 8 {
            start.extend_from_slice(&buffer[..count.min(8)]);
        }
        writer.write(&buffer[..count])?;
    }
    let size = writer.written();
    let (path, digest) = writer.finish();
    Ok(Spooled {
        digest,
        size,
        compression: compression(&start),
        path,
    })
}

/// `blobs/sha256/<hex>` must hold what it is called after (image-layout.md).
fn check_name(name: &str, file: &Spooled, what: &str) -> Result<(), Error> {
    let Some(hex) = name.strip_prefix("blobs/sha256/") else {
        return Ok(());
    };
    let Ok(expected) = Digest::try_from(format!("sha256:{hex}")) else {
        return Ok(());
    };
    if expected == file.digest {
        return Ok(());
    }
    let what = format!("`{name}` in {what}");
    Err(Error::DigestMismatch {
        what,
        expected,
        actual: file.digest.clone(),
    })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// The name a symbolic link at `name` leads to; names are keys only, never paths.
fn relative(name: &str, target: &[u8]) -> String {
    let target = text(target);
    if target.starts_with('/') {
        return text(plain(target.as_bytes()));
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_resolve_within_the_archive() {
        for (name, target, expected) in [
            ("a/layer.tar", "../b/layer.tar", "b/layer.tar"),
            ("a/layer.tar", "./x", "a/x"),
            ("a", "/b/c", "b/c"),
            ("a", "../../etc/passwd", "etc/passwd"),
        ] {
            assert_eq!(relative(name, target.as_bytes()), expected);
        }
    }
}
