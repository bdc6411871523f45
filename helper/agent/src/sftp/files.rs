//! Requests about files and directories.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions, ReadDir};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use nix::libc;
use nix::unistd::LinkatFlags;

use super::attributes::{self, Attributes};
use super::error::Error;
use super::long_name::{Names, long_name};
use super::packet::{self, MAX_DATA, Reader, kind, packet};

/// Open files and directories of one client.
const MAX_HANDLES: usize = 512;
/// Names in one answer, as many bytes as a packet bears beside the last one.
const NAMES: usize = 64 * 1024;

/// Flags of OPEN (draft-ietf-secsh-filexfer-02, section 6.3).
mod flag {
    pub(super) const READ: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const APPEND: u32 = 4;
    pub(super) const CREATE: u32 = 8;
    pub(super) const TRUNCATE: u32 = 16;
    pub(super) const EXCLUSIVE: u32 = 32;
}

#[derive(Debug)]
enum Open {
    File {
        file: File,
        append: bool,
    },
    Directory {
        path: PathBuf,
        entries: Box<Entries>,
    },
}

/// A directory's entries, beginning with itself and its parent as readdir(3) gives them.
#[derive(Debug)]
struct Entries {
    dots: u8,
    rest: ReadDir,
}

/// What one client has open.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: BTreeMap<u32, Open>,
    next: u32,
    pub(super) names: Names,
}

impl Files {
    /// Does what is asked and appends the answer.
    ///
    /// # Errors
    /// Why it was not done; nothing useful was appended then.
    pub(super) fn request(
        &mut self,
        kind: u8,
        id: u32,
        reader: &mut Reader<'_>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match kind {
            kind::OPEN => return self.open(id, reader, answers),
            kind::OPENDIR => return self.open_directory(id, reader, answers),
            kind::READ => return self.read(id, reader, answers),
            kind::READDIR => return self.read_directory(id, reader, answers),
            kind::LSTAT => {
                return attributes_of(answers, id, &fs::symlink_metadata(path(reader)?)?);
            }
            kind::STAT => return attributes_of(answers, id, &fs::metadata(path(reader)?)?),
            kind::FSTAT => {
                let metadata = match self.handle(reader)? {
                    Open::File { file, .. } => file.metadata()?,
                    Open::Directory { path, .. } => fs::metadata(path)?,
                };
                return attributes_of(answers, id, &metadata);
            }
            kind::REALPATH => {
                let real = canonical(&path(reader)?)?;
                name(answers, id, real.as_os_str());
                return Ok(());
            }
            kind::READLINK => {
                let target = fs::read_link(path(reader)?)?;
                name(answers, id, target.as_os_str());
                return Ok(());
            }
            kind::EXTENDED => return self.extended(id, reader, answers),
            kind::CLOSE => {
                let number = handle_number(reader)?;
                self.open.remove(&number).ok_or(Error::Handle)?;
            }
            kind::WRITE => self.write(reader)?,
            kind::SETSTAT => {
                let path = path(reader)?;
                Attributes::read(reader)?.set(&path, true)?;
            }
            kind::FSETSTAT => {
                let number = handle_number(reader)?;
                let attributes = Attributes::read(reader)?;
                match self.open.get(&number).ok_or(Error::Handle)? {
                    Open::File { file, .. } => attributes.set_open(file)?,
                    Open::Directory { path, .. } => attributes.set(path, true)?,
                }
            }
            kind::REMOVE => fs::remove_file(path(reader)?)?,
            kind::RMDIR => fs::remove_dir(path(reader)?)?,
            kind::MKDIR => {
                let path = path(reader)?;
                let mode = Attributes::read(reader)?.mode(0o777);
                fs::DirBuilder::new().mode(mode).create(path)?;
            }
            kind::RENAME => rename(&path(reader)?, &path(reader)?)?,
            // OpenSSH has the two the other way round than the draft, and so has everybody by now.
            kind::SYMLINK => {
                let target = path(reader)?;
                std::os::unix::fs::symlink(target, path(reader)?)?;
            }
            _ => return Err(Error::Unsupported),
        }
        packet::done(answers, id);
        Ok(())
    }

    fn handle(&mut self, reader: &mut Reader<'_>) -> Result<&mut Open, Error> {
        let number = handle_number(reader)?;
        self.open.get_mut(&number).ok_or(Error::Handle)
    }

    /// The open file of a request.
    ///
    /// # Errors
    /// No such handle, or a directory's.
    pub(super) fn file(&mut self, reader: &mut Reader<'_>) -> Result<&File, Error> {
        match self.handle(reader)? {
            Open::File { file, .. } => Ok(file),
            Open::Directory { .. } => Err(Error::Handle),
        }
    }

    fn keep(&mut self, answers: &mut Vec<u8>, id: u32, open: Open) -> Result<(), Error> {
        if self.open.len() >= MAX_HANDLES {
            return Err(Error::Handle);
        }
        // A number is not used again soon, so that a mistake is not somebody else's file.
        while self.open.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(number, open);
        packet(answers, kind::HANDLE, id, |bytes| {
            packet::string(bytes, &number.to_be_bytes());
        });
        Ok(())
    }

    fn open(
        &mut self,
        id: u32,
        reader: &mut Reader<'_>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let path = path(reader)?;
        let flags = reader.number()?;
        let attributes = Attributes::read(reader)?;
        let has = |flag| flags & flag != 0;
        let mut extra = libc::O_NOCTTY;
        for (flag, own) in [
            (flag::CREATE, libc::O_CREAT),
            (flag::TRUNCATE, libc::O_TRUNC),
            (flag::EXCLUSIVE, libc::O_EXCL),
            (flag::APPEND, libc::O_APPEND),
        ] {
            if has(flag) {
                extra |= own;
            }
        }
        // OpenOptions would refuse some combinations that open(2) takes.
        let file = OpenOptions::new()
            .read(has(flag::READ) || !has(flag::WRITE))
            .write(has(flag::WRITE))
            .mode(attributes.mode(0o666))
            .custom_flags(extra)
            .open(path)?;
        let append = has(flag::APPEND);
        self.keep(answers, id, Open::File { file, append })
    }

    fn open_directory(
        &mut self,
        id: u32,
        reader: &mut Reader<'_>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let path = path(reader)?;
        let entries = Box::new(Entries {
            dots: 0,
            rest: fs::read_dir(&path)?,
        });
        self.keep(answers, id, Open::Directory { path, entries })
    }

    fn read(
        &mut self,
        id: u32,
        reader: &mut Reader<'_>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Open::File { file, .. } = self.handle(reader)? else {
            return Err(Error::Handle);
        };
        let offset = reader.long()?;
        let length = (reader.number()? as usize).min(MAX_DATA);
        let mut data = vec![0; length];
        let length = file.read_at(&mut data, offset)?;
        if length == 0 {
            return Err(Error::End);
        }
        packet(answers, kind::DATA, id, |bytes| {
            packet::string(bytes, &data[..length]);
        });
        Ok(())
    }

    fn write(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let Open::File { file, append } = self.handle(reader)? else {
            return Err(Error::Handle);
        };
        let offset = reader.long()?;
        let data = reader.bytes()?;
        if *append {
            // pwrite(2) appends by itself on Linux, and only there.
            return Ok(std::io::Write::write_all(&mut &*file, data)?);
        }
        Ok(file.write_all_at(data, offset)?)
    }

    fn read_directory(
        &mut self,
        id: u32,
        reader: &mut Reader<'_>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0));
        let number = handle_number(reader)?;
        let Some(Open::Directory { path, entries }) = self.open.get_mut(&number) else {
            return Err(Error::Handle);
        };
        let mut listed = Vec::new();
        let mut count = 0;
        while listed.len() < NAMES
            && let Some(entry) = entries.next()
        {
            let entry = entry?;
            // Gone since it was listed.
            let Ok(metadata) = fs::symlink_metadata(path.join(&entry)) else {
                continue;
            };
            let bytes = entry.as_bytes();
            packet::string(&mut listed, bytes);
            let line = long_name(&mut self.names, bytes, &metadata, now);
            packet::string(&mut listed, &line);
            attributes::write(&mut listed, &metadata);
            count += 1;
        }
        if count == 0 {
            return Err(Error::End);
        }
        packet(answers, kind::NAME, id, |bytes| {
            packet::number(bytes, count);
            bytes.extend(listed);
        });
        Ok(())
    }
}

impl Entries {
    fn next(&mut self) -> Option<Result<OsString, std::io::Error>> {
        let dot = [".", ".."].get(usize::from(self.dots));
        if let Some(dot) = dot {
            self.dots += 1;
            return Some(Ok(OsString::from(dot)));
        }
        Some(self.rest.next()?.map(|entry| entry.file_name()))
    }
}

fn handle_number(reader: &mut Reader<'_>) -> Result<u32, Error> {
    let bytes = reader.bytes()?;
    Ok(u32::from_be_bytes(
        bytes.try_into().map_err(|_| Error::Handle)?,
    ))
}

/// A path of a request, any bytes; the empty one is the working directory.
///
/// # Errors
/// The request is too short.
pub(super) fn path(reader: &mut Reader<'_>) -> Result<PathBuf, Error> {
    let bytes = reader.bytes()?;
    let bytes = if bytes.is_empty() { b"." } else { bytes };
    Ok(PathBuf::from(OsStr::from_bytes(bytes)))
}

fn attributes_of(answers: &mut Vec<u8>, id: u32, metadata: &Metadata) -> Result<(), Error> {
    packet(answers, kind::ATTRS, id, |bytes| {
        attributes::write(bytes, metadata);
    });
    Ok(())
}

/// Appends an answer of one name.
pub(super) fn name(answers: &mut Vec<u8>, id: u32, name: &OsStr) {
    packet(answers, kind::NAME, id, |bytes| {
        packet::number(bytes, 1);
        packet::string(bytes, name.as_bytes());
        packet::string(bytes, name.as_bytes());
        attributes::write_none(bytes);
    });
}

/// The absolute path without links; the last component may be missing (as OpenSSH has it, for the
/// target of an upload).
///
/// # Errors
/// Those of realpath(3).
pub(super) fn canonical(path: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let absolute = std::env::current_dir()?.join(path);
            match absolute.components().next_back() {
                Some(Component::Normal(last)) => {
                    let parent = absolute.parent().unwrap_or(Path::new("/"));
                    Ok(fs::canonicalize(parent)?.join(last))
                }
                _ => Err(error.into()),
            }
        }
        other => Ok(other?),
    }
}

/// Renames, and never replaces: that is what posix-rename is for.
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_dir() {
        if fs::symlink_metadata(to).is_ok() {
            return Err(Error::System(nix::errno::Errno::EEXIST));
        }
        return Ok(fs::rename(from, to)?);
    }
    // A hard link is the one way to make a name only if there is none; some file systems have none.
    match nix::unistd::linkat(
        nix::fcntl::AT_FDCWD,
        from,
        nix::fcntl::AT_FDCWD,
        to,
        LinkatFlags::empty(),
    ) {
        Ok(()) => Ok(fs::remove_file(from)?),
        Err(nix::errno::Errno::EEXIST) => Err(Error::System(nix::errno::Errno::EEXIST)),
        Err(_) if fs::symlink_metadata(to).is_err() => Ok(fs::rename(from, to)?),
        Err(error) => Err(error.into()),
    }
}
