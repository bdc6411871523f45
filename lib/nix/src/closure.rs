//! A closure on its way into a file system: read once, where it is, and compared with its hashes.
//!
//! What is written is a function of the closure: objects sorted by name, root's, at second 1, with the two modes
//! that the store has; files that the host's store joins by hardlinks are apart.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use lib_fs::{Attributes, Builder, Time};
use nix::libc;

use crate::{Error, Nar, PathInfo, StorePath, database, program};

/// Second of all times in a store.
const TIME: i64 = 1;
/// Where Nix keeps its state.
const STATE: &str = "nix/var/nix";
const DATABASE: &str = "db.sqlite";
/// For who looks a user up; a NixOS system writes its own.
const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/var/empty:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What an image holds.
#[derive(Debug, Clone)]
pub struct Content {
    /// What it was made for.
    pub top: StorePath,
    /// All that is below `/nix/store`, sorted, and closed under references.
    pub paths: Vec<PathInfo>,
    /// Objects of the host's store that are copied to other places, and where to; empty for `/`.
    pub copies: Vec<(PathInfo, String)>,
    /// `top` is a NixOS system.
    pub system: bool,
}

impl Content {
    /// The closure of one object.
    pub fn closure(top: StorePath, paths: Vec<PathInfo>, system: bool) -> Content {
        Content {
            top,
            paths,
            copies: Vec::new(),
            system,
        }
    }

    /// Names and hashes of all that is in the image; equal contents have equal texts.
    pub fn identity(&self) -> String {
        let mut text = format!("top {}\nsystem {}\n", self.top, self.system);
        for info in &self.paths {
            text += &format!("path {} {} {}\n", info.path, info.hash, info.size);
            for reference in &info.references {
                text += &format!("reference {reference}\n");
            }
        }
        for (info, place) in &self.copies {
            text += &format!("copy {} {} /{place}\n", info.path, info.hash);
        }
        text
    }

    /// Bytes of all objects, about.
    pub fn bytes(&self) -> u64 {
        let copies = self.copies.iter().map(|(info, _)| info.size);
        let sizes = self.paths.iter().map(|info| info.size).chain(copies);
        sizes.fold(0, u64::saturating_add)
    }

    /// OCI architecture of the machine that its programs are for; none when it has no programs.
    pub fn architecture(&self) -> Option<&'static str> {
        program::architecture(&self.top, &self.paths)
    }

    /// Writes everything. `scratch` is a directory for the database on its way; `read` hears how many bytes more
    /// were read.
    ///
    /// # Errors
    /// [`Error::Vanished`], [`Error::Changed`], and what the file system cannot hold.
    pub fn write(
        &self,
        builder: &mut Builder<'_>,
        scratch: &Path,
        read: &dyn Fn(u64),
    ) -> Result<(), Error> {
        self.frame(builder)?;
        for info in &self.paths {
            let target = info.path.as_str().trim_start_matches('/');
            object(builder, info, target, read)?;
        }
        for (info, place) in &self.copies {
            object(builder, info, place, read)?;
        }
        let file = scratch.join(DATABASE);
        database::write(&file, &self.paths)?;
        let content = File::open(&file).map_err(Error::io("open", &file))?;
        let length = content.metadata().map_err(Error::io("read", &file))?.len();
        builder.file(
            format!("{STATE}/db/{DATABASE}").as_bytes(),
            &attributes(0o644),
            length,
            content,
        )?;
        fs::remove_file(&file).map_err(Error::io("remove", &file))
    }

    /// What nothing else refers to: enough to keep the guest's own collector from all of it.
    fn roots(&self) -> impl Iterator<Item = &StorePath> {
        let needed = needed(&self.paths);
        let paths = self.paths.iter().map(|info| &info.path);
        paths.filter(move |path| !needed.contains(path))
    }

    /// What is around the store.
    fn frame(&self, builder: &mut Builder<'_>) -> Result<(), Error> {
        let mut directory =
            |path: &str, mode| builder.directory(path.as_bytes(), &attributes(mode));
        directory("", 0o755)?;
        directory("nix/store", 0o755)?;
        directory(&format!("{STATE}/db"), 0o755)?;
        directory(&format!("{STATE}/gcroots"), 0o755)?;
        directory(&format!("{STATE}/profiles"), 0o755)?;
        directory("etc", 0o755)?;
        directory("root", 0o700)?;
        directory("tmp", 0o1777)?;
        directory("var", 0o755)?;
        let mut link = |path: &str, target: &str| {
            builder.symlink(path.as_bytes(), &attributes(0o777), target.as_bytes())
        };
        for path in self.roots() {
            let name = path.path().file_name().unwrap_or_default();
            link(
                &format!("{STATE}/gcroots/banger/{}", name.to_string_lossy()),
                path.as_str(),
            )?;
        }
        if self.system {
            link(&format!("{STATE}/profiles/system"), "system-1-link")?;
            link(
                &format!("{STATE}/profiles/system-1-link"),
                self.top.as_str(),
            )?;
        }
        let mut file = |path: &str, text: &str| {
            let bytes = text.len() as u64;
            builder.file(path.as_bytes(), &attributes(0o644), bytes, text.as_bytes())
        };
        file(&format!("{STATE}/db/schema"), database::FORMAT)?;
        if !self.system {
            file("etc/passwd", PASSWD)?;
            file("etc/group", GROUP)?;
        }
        Ok(())
    }
}

/// Takes objects that are only there to be copied elsewhere out of the store.
pub(crate) fn only_needed(paths: Vec<PathInfo>, copied: &BTreeSet<StorePath>) -> Vec<PathInfo> {
    let needed: BTreeSet<StorePath> = needed(&paths).into_iter().cloned().collect();
    let stays = |info: &PathInfo| !copied.contains(&info.path) || needed.contains(&info.path);
    paths.into_iter().filter(stays).collect()
}

/// What is referred to by something else.
fn needed(paths: &[PathInfo]) -> BTreeSet<&StorePath> {
    let others = |info: &'_ PathInfo, path: &StorePath| *path != info.path;
    paths
        .iter()
        .flat_map(|info| {
            info.references
                .iter()
                .filter(move |path| others(info, path))
        })
        .collect()
}

fn attributes(mode: u16) -> Attributes {
    let mut attributes = Attributes::new(mode);
    attributes.mtime = Time {
        seconds: TIME,
        nanos: 0,
    };
    attributes
}

/// One object of the store, to `target`.
fn object(
    builder: &mut Builder<'_>,
    info: &PathInfo,
    target: &str,
    read: &dyn Fn(u64),
) -> Result<(), Error> {
    let mut walk = Walk {
        builder,
        object: &info.path,
        nar: Nar::default(),
        read,
    };
    walk.node(info.path.path(), target.as_bytes())?;
    let (actual, bytes) = walk.nar.finish();
    if actual == info.hash && bytes == info.size {
        return Ok(());
    }
    Err(Error::Changed {
        path: info.path.clone(),
        expected: info.hash.hex().to_owned(),
        actual: actual.hex().to_owned(),
    })
}

struct Walk<'a, 'b> {
    builder: &'a mut Builder<'b>,
    object: &'a StorePath,
    nar: Nar,
    read: &'a dyn Fn(u64),
}

impl Walk<'_, '_> {
    fn failed(&self, path: &Path, source: io::Error) -> Error {
        match source.kind() {
            // A collection renames what it removes, or removes it from below.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::Vanished(self.object.clone())
            }
            _ => Error::io("read", path)(source),
        }
    }

    /// `target` has no more bytes than the file system allows, which bounds the depth.
    fn node(&mut self, path: &Path, target: &[u8]) -> Result<(), Error> {
        let metadata = fs::symlink_metadata(path).map_err(|e| self.failed(path, e))?;
        if metadata.is_dir() {
            self.directory(path, target)
        } else if metadata.is_file() {
            self.file(path, target, &metadata)
        } else if metadata.is_symlink() {
            let link = fs::read_link(path).map_err(|e| self.failed(path, e))?;
            let link = link.as_os_str().as_bytes();
            self.nar.link(link);
            Ok(self.builder.symlink(target, &attributes(0o777), link)?)
        } else {
            Err(Error::Unknown {
                path: self.object.clone(),
                found: format!("{} is neither file nor directory nor link", path.display()),
            })
        }
    }

    fn directory(&mut self, path: &Path, target: &[u8]) -> Result<(), Error> {
        self.builder
            .directory(target, &attributes(directory_mode(target)))?;
        self.nar.directory();
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(|e| self.failed(path, e))? {
            names.push(entry.map_err(|e| self.failed(path, e))?.file_name());
        }
        names.sort();
        for name in names {
            self.nar.entry(name.as_bytes());
            let mut below = target.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.as_bytes());
            self.node(&path.join(&name), &below)?;
            self.nar.end_entry();
        }
        self.nar.end_directory();
        Ok(())
    }

    fn file(&mut self, path: &Path, target: &[u8], metadata: &Metadata) -> Result<(), Error> {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(|e| self.failed(path, e))?;
        let executable = metadata.mode() & 0o100 != 0;
        let length = metadata.len();
        self.nar.file(executable, length);
        let content = Hashed {
            inner: file.take(length),
            nar: &mut self.nar,
            read: self.read,
        };
        let mode = if executable { 0o555 } else { 0o444 };
        self.builder
            .file(target, &attributes(mode), length, content)?;
        self.nar.end_file();
        Ok(())
    }
}

/// The root of the guest, to which objects may be copied, stays writable for root's own tools.
fn directory_mode(target: &[u8]) -> u16 {
    if target.is_empty() { 0o755 } else { 0o555 }
}

/// Hashes what passes.
struct Hashed<'a, R> {
    inner: R,
    nar: &'a mut Nar,
    read: &'a dyn Fn(u64),
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.nar.content(&buffer[..count]);
        (self.read)(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_model::Digest;

    fn info(name: &str, references: &[&str]) -> PathInfo {
        let path = |name: &str| {
            StorePath::try_from(&*format!("/nix/store/{}-{name}", "0".repeat(32))).unwrap()
        };
        PathInfo {
            path: path(name),
            hash: Digest::from_sha256([7; 32]),
            size: 5,
            references: references.iter().map(|name| path(name)).collect(),
        }
    }

    #[test]
    fn what_is_copied_elsewhere_stays_only_when_something_needs_it() {
        let paths = vec![info("a", &["b"]), info("b", &[]), info("c", &["c"])];
        let copied = paths[1..].iter().map(|info| info.path.clone()).collect();
        let left = only_needed(paths, &copied);
        let names: Vec<&str> = left.iter().map(|info| info.path.name()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_missing_object_has_vanished() {
        let place = tempfile::tempdir().unwrap();
        let image = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(place.path().join("image"))
            .unwrap();
        let options = lib_fs::Options::default();
        let mut builder = Builder::new(&image, &options).unwrap();
        let gone = info("gone", &[]);
        let content = Content::closure(gone.path.clone(), vec![gone], false);
        let error = content
            .write(&mut builder, place.path(), &|_| {})
            .unwrap_err();
        assert!(matches!(error, Error::Vanished(_)), "{error}");
    }

    #[test]
    fn the_identity_has_all_that_makes_the_image() {
        let (a, b) = (info("a", &["b"]), info("b", &[]));
        let whole = Content::closure(a.path.clone(), vec![a.clone(), b.clone()], false);
        let mut changed = Vec::new();
        let mut other = whole.clone();
        other.paths[1].hash = Digest::from_sha256([8; 32]);
        changed.push(other);
        let mut other = whole.clone();
        other.paths[0].references.clear();
        changed.push(other);
        let mut other = whole.clone();
        other.copies.push((b, "etc".into()));
        changed.push(other);
        for other in changed {
            assert_ne!(whole.identity(), other.identity());
        }
    }
}
