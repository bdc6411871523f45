//! Tar archives as trees and trees as tar archives, for `-`.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use banger_tree::{Chunk, Entry, Kind, Name, Reader, Result, Step, Summary, TreeError, Writer};
use tar::{Archive, Builder, EntryType, Header};

const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

/// Sends the entries of an archive. Names with `..` are refused, as in tar(1); a leading `/` is dropped.
///
/// # Errors
/// A malformed archive, a name that leads elsewhere, the stream.
pub(crate) fn send<W: Write>(
    writer: &mut Writer<W>,
    input: &mut dyn Read,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary> {
    let mut archive = Archive::new(input);
    let mut summary = Summary::default();
    let mut stack: Vec<Name> = Vec::new();
    for entry in archive.entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        let path = entry.path_bytes().into_owned();
        let mut names = names(&path)?;
        let header = entry.header().clone();
        let is_directory = header.entry_type() == EntryType::Directory;
        let Some(name) = names.pop() else {
            // The top itself, `./`.
            continue;
        };
        enter(writer, &mut stack, &names)?;
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory {
                implied: false,
                contents: false,
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Kind::File { size: entry.size() }
            }
            EntryType::Symlink => Kind::Symlink {
                target: link(&entry)?,
            },
            EntryType::Link => Kind::Hardlink {
                to: self::names(&link(&entry)?)?,
            },
            EntryType::Fifo => Kind::Fifo,
            _ => {
                let text = String::from_utf8_lossy(&path).into_owned();
                let words = format!("{text}: neither file, directory, link nor pipe");
                writer.problem(&words)?;
                summary.left_out += 1;
                summary.problems.push(words);
                summary.problems.truncate(20);
                continue;
            }
        };
        let number = |number: io::Result<u64>| u32::try_from(number.unwrap_or(0)).unwrap_or(0);
        let tree_entry = Entry {
            name: name.clone(),
            mode: header.mode().unwrap_or(0o644) & 0o7777,
            uid: number(header.uid()),
            gid: number(header.gid()),
            mtime: (header.mtime().unwrap_or(0).cast_signed(), 0),
            xattrs: Vec::new(),
            kind,
        };
        let is_file = matches!(tree_entry.kind, Kind::File { .. });
        writer.entry(&tree_entry)?;
        summary.entries += 1;
        if is_directory {
            stack.push(name);
        } else if is_file {
            loop {
                let count = writer.data_from(&mut entry, u64::MAX)?;
                if count == 0 {
                    break;
                }
                summary.bytes += count as u64;
                progress(count as u64);
            }
            writer.end()?;
        }
    }
    enter(writer, &mut stack, &[])?;
    Ok(summary)
}

fn malformed(error: io::Error) -> TreeError {
    TreeError::Refused(format!("the archive cannot be read: {error}"))
}

fn link<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Vec<u8>> {
    entry
        .link_name_bytes()
        .map(|bytes| bytes.into_owned())
        .ok_or_else(|| TreeError::Refused("a link in the archive has no target".into()))
}

fn names(path: &[u8]) -> Result<Vec<Name>> {
    Path::new(OsStr::from_bytes(path))
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Name::try_from(name.as_bytes())),
            Component::ParentDir => Some(Name::try_from(&b".."[..])),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Leaves and enters directories until the innermost one is `wanted`.
fn enter<W: Write>(
    writer: &mut Writer<W>,
    stack: &mut Vec<Name>,
    wanted: &[Name],
) -> io::Result<()> {
    let common = stack
        .iter()
        .zip(wanted)
        .take_while(|(here, there)| here == there)
        .count();
    while stack.len() > common {
        stack.pop();
        writer.end()?;
    }
    for name in &wanted[common..] {
        writer.entry(&Entry::implied(name.clone()))?;
        stack.push(name.clone());
    }
    Ok(())
}

/// Writes what arrives as an archive; holes become zeros, as readers of every kind know them.
///
/// # Errors
/// The stream; the writer.
pub(crate) fn receive<R: Read>(
    reader: &mut Reader<R>,
    output: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary> {
    let mut builder = Builder::new(output);
    let mut summary = Summary::default();
    let mut stack: Vec<Name> = Vec::new();
    let mut contents = false;
    loop {
        match reader.next_step()? {
            Step::Entry(entry) => {
                let is_directory = matches!(entry.kind, Kind::Directory { .. });
                stack.push(entry.name.clone());
                if stack.len() == 1 {
                    contents = matches!(entry.kind, Kind::Directory { contents: true, .. });
                }
                let at = (&stack[..], contents);
                append(&mut builder, reader, at, &entry, progress)?;
                if !is_directory {
                    stack.pop();
                }
            }
            Step::Leave => drop(stack.pop()),
            Step::Problem(words) => {
                summary.left_out += 1;
                summary.problems.push(words);
                summary.problems.truncate(20);
            }
            Step::Done => break,
        }
    }
    let output = builder.into_inner().map_err(unwritable)?;
    output.flush().map_err(unwritable)?;
    (summary.entries, summary.bytes) = reader.seen();
    Ok(summary)
}

fn unwritable(cause: io::Error) -> TreeError {
    TreeError::File {
        action: "write",
        name: "the archive".into(),
        cause,
    }
}

fn append<R: Read>(
    builder: &mut Builder<&mut dyn Write>,
    reader: &mut Reader<R>,
    (stack, contents): (&[Name], bool),
    entry: &Entry,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let join = |names: &[Name]| {
        let parts = names.iter().map(Name::as_bytes);
        let parts: Vec<&[u8]> = match contents {
            // What was asked for is in the directory, which has no name then.
            true => std::iter::once(&b"."[..]).chain(parts.skip(1)).collect(),
            false => parts.collect(),
        };
        parts.join(&b'/')
    };
    let path = join(stack);
    let path = Path::new(OsStr::from_bytes(&path));
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(u64::try_from(entry.mtime.0).unwrap_or(0));
    header.set_size(0);
    match &entry.kind {
        Kind::Directory { .. } => {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, path, io::empty())
        }
        Kind::File { size } => {
            header.set_size(*size);
            let mut content = Content {
                reader,
                left: *size,
                piece: Vec::new(),
                taken: 0,
                zeros: 0,
                ended: false,
                failed: None,
                progress,
            };
            let appended = builder.append_data(&mut header, path, &mut content);
            content.finish()?;
            appended
        }
        Kind::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, path, Path::new(OsStr::from_bytes(target)))
        }
        Kind::Hardlink { to } => {
            header.set_entry_type(EntryType::Link);
            let to = join(to);
            builder.append_link(&mut header, path, Path::new(OsStr::from_bytes(&to)))
        }
        Kind::Fifo => {
            header.set_entry_type(EntryType::Fifo);
            builder.append_data(&mut header, path, io::empty())
        }
    }
    .map_err(unwritable)
}

/// A file's content, exactly as long as its header says: what is missing is zeros, what is too much is
/// refused.
struct Content<'a, R> {
    reader: &'a mut Reader<R>,
    left: u64,
    piece: Vec<u8>,
    taken: usize,
    zeros: u64,
    ended: bool,
    failed: Option<TreeError>,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Content<'_, R> {
    fn next_piece(&mut self) -> Result<()> {
        match self.reader.chunk()? {
            Chunk::Data(bytes) => {
                (self.progress)(bytes.len() as u64);
                self.piece.clear();
                self.piece.extend_from_slice(bytes);
                self.taken = 0;
            }
            Chunk::Hole(length) => self.zeros = length,
            Chunk::End => {
                self.ended = true;
                self.zeros = self.left;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.ended {
            self.next_piece()?;
            if !self.ended {
                return Err(TreeError::Protocol("a file that is longer than it said"));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left > 0 {
            let most = buffer
                .len()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let piece = &self.piece[self.taken..];
            if !piece.is_empty() {
                let count = piece.len().min(most);
                buffer[..count].copy_from_slice(&piece[..count]);
                self.taken += count;
                self.left -= count as u64;
                return Ok(count);
            }
            if self.zeros > 0 {
                let most = most.min(ZEROS.len());
                let count = usize::try_from(self.zeros).unwrap_or(most).min(most);
                buffer[..count].copy_from_slice(&ZEROS[..count]);
                self.zeros -= count as u64;
                self.left -= count as u64;
                return Ok(count);
            }
            if let Err(error) = self.next_piece() {
                self.failed = Some(error);
                return Err(io::Error::other("the copy failed"));
            }
        }
        Ok(0)
    }
}
