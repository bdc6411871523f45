//! A conversation about one directory: the side that has it lists, sends, takes and removes what the
//! other side names. The other side leads; each request is answered before the next one.
//!
//! Frames are those of [`banger_wire::frame`]. Paths are relative, their names are checked on both
//! sides, and no link is followed below the directory.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use banger_wire::agent::{CallError, CallErrorKind};
use banger_wire::frame::{self, Frame};
use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::entry::Name;
use crate::error::{Result, TreeError, shown};
use crate::listing::{ListingDecoder, Piece, list, open_below};
use crate::receive::{Receive, Summary, receive_into};
use crate::send::{Send, send_chosen};
use crate::stream::{Limits, Reader, Writer};

/// Kinds of frames.
mod kind {
    /// Directories to list.
    pub(super) const LIST: u8 = 1;
    /// Files to send; a tree follows as the answer.
    pub(super) const FETCH: u8 = 2;
    /// A tree follows, to be taken.
    pub(super) const PLACE: u8 = 3;
    /// Files to remove.
    pub(super) const REMOVE: u8 = 4;
    /// Done; a number of entries. As the agent's other answers.
    pub(super) const DONE: u8 = banger_wire::agent::kind::REPLY;
    /// JSON [`banger_wire::agent::CallError`]: why not.
    pub(super) const ERROR: u8 = banger_wire::agent::kind::ERROR;
    /// A part of a listing.
    pub(super) const LISTED: u8 = 96;
}

/// Longest list of paths in one request, in bytes.
pub const MOST_PATHS: usize = 512 * 1024;
const LISTED_AT: usize = 64 * 1024;
const LONGEST_WORDS: usize = 4096;
const MIB: u64 = 1 << 20;

/// A relative path, name by name; none is the directory itself.
pub type Path = Vec<Name>;

/// A path from its bytes.
///
/// # Errors
/// [`TreeError::Refused`] for names that lead elsewhere: `..`, empty ones, an absolute path.
pub fn path(bytes: &[u8]) -> Result<Path> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    bytes
        .split(|byte| *byte == b'/')
        .map(Name::try_from)
        .collect()
}

/// The bytes of a path.
pub fn path_bytes(path: &[Name]) -> Vec<u8> {
    let names: Vec<&[u8]> = path.iter().map(Name::as_bytes).collect();
    names.join(&b'/')
}

fn encode_paths(paths: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for path in paths {
        out.extend_from_slice(path);
        out.push(0);
    }
    out
}

fn decode_paths(payload: &[u8]) -> Result<Vec<Path>> {
    let Some(payload) = payload.strip_suffix(&[0]) else {
        return match payload.is_empty() {
            true => Ok(Vec::new()),
            false => Err(TreeError::Protocol("a list of paths without an end")),
        };
    };
    payload.split(|byte| *byte == 0).map(path).collect()
}

/// Serves requests about `root` until the other side ends the stream.
///
/// # Errors
/// Those of the stream, and a broken protocol; what cannot be done is told to the other side.
pub fn serve(root: BorrowedFd<'_>, mut input: impl Read, mut output: impl Write) -> Result<()> {
    while let Some(Frame { kind, payload }) = frame::read(&mut input)? {
        match kind {
            kind::LIST => {
                let directories = decode_paths(&payload)?;
                list(root, &directories, |out, last| {
                    if out.len() >= LISTED_AT || (last && !out.is_empty()) {
                        frame::write(&mut output, kind::LISTED, out)?;
                        out.clear();
                    }
                    Ok(())
                })?;
                done(&mut output, 0)?;
            }
            kind::FETCH => {
                let paths = decode_paths(&payload)?;
                let mut writer = Writer::new(&mut output);
                send_chosen(&mut writer, root, &paths, Send::default(), &mut |_| {})?;
                writer.done()?;
            }
            kind::PLACE => {
                let mut reader = Reader::new(&mut input, Limits::default());
                match receive_into(&mut reader, root, &Receive::default(), &mut |_| {}) {
                    Ok(summary) => done(&mut output, summary.entries)?,
                    Err(error @ TreeError::Stream(_)) => return Err(error),
                    Err(error) => {
                        // What else was on its way cannot be told from a request any more.
                        say(&mut output, root, &error)?;
                        return Ok(());
                    }
                }
            }
            kind::REMOVE => match remove(root, &decode_paths(&payload)?) {
                Ok(count) => done(&mut output, count)?,
                Err(error) => say(&mut output, root, &error)?,
            },
            _ => return Err(TreeError::Protocol("an unknown request")),
        }
    }
    Ok(())
}

fn done(output: &mut impl Write, count: u64) -> Result<()> {
    Ok(frame::write(output, kind::DONE, &count.to_le_bytes())?)
}

fn say(output: &mut impl Write, root: BorrowedFd<'_>, error: &TreeError) -> Result<()> {
    let mut message = error.to_string();
    if let TreeError::File { cause, .. } = error
        && cause.kind() == std::io::ErrorKind::StorageFull
        && let Ok(file_system) = fstatvfs(root)
    {
        // What only root may take is not there for others (statvfs(3)).
        let bytes = file_system.fragment_size();
        let (free, all) = (file_system.blocks_available(), file_system.blocks());
        let (free, all) = (free * bytes / MIB, all * bytes / MIB);
        message += &format!(
            "; of the {all} MiB of its file system {free} MiB are free, and {} more files fit",
            file_system.files_available()
        );
    }
    let error = CallError {
        kind: CallErrorKind::Failed,
        message,
    };
    let json = serde_json::to_vec(&error).map_err(std::io::Error::from)?;
    Ok(frame::write(output, kind::ERROR, &json)?)
}

/// Removes files, and then the directories that are empty without them.
fn remove(root: BorrowedFd<'_>, paths: &[Path]) -> Result<u64> {
    let mut removed = 0;
    for path in paths {
        let Some((name, parents)) = path.split_last() else {
            continue;
        };
        let Ok(directory) = open_below(root, parents) else {
            // A directory on the way is gone, or is none any more.
            continue;
        };
        match unlinkat(&directory, name.as_bytes(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => removed += 1,
            Err(Errno::ENOENT | Errno::EISDIR) => continue,
            Err(errno) => return Err(TreeError::file("remove", &path_bytes(path))(errno)),
        }
        for depth in (0..parents.len()).rev() {
            let (above, name) = (&parents[..depth], &parents[depth]);
            let Ok(directory) = open_below(root, above) else {
                break;
            };
            if unlinkat(&directory, name.as_bytes(), UnlinkatFlags::RemoveDir).is_err() {
                break;
            }
        }
    }
    Ok(removed)
}

/// The side that leads.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
}

impl<S: Read + Write> Client<S> {
    /// Over a stream to somebody who serves.
    pub fn new(stream: S) -> Self {
        Client { stream }
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Lists directories; `take` gets each piece, and may refuse.
    ///
    /// # Errors
    /// Those of the stream; a broken protocol; those of `take`.
    pub fn list(
        &mut self,
        directories: &[Vec<u8>],
        mut take: impl FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        for directories in chunks(directories) {
            frame::write(&mut self.stream, kind::LIST, &encode_paths(directories))?;
            let mut decoder = ListingDecoder::default();
            loop {
                let Frame { kind, payload } = self.frame()?;
                match kind {
                    // No limit would ever stop them.
                    kind::LISTED if payload.is_empty() => {
                        return Err(TreeError::Protocol("an empty part of a listing"));
                    }
                    kind::LISTED => decoder.push(&payload, directories.len(), &mut take)?,
                    kind::DONE => break,
                    _ => return Err(TreeError::Protocol("an unexpected frame in a listing")),
                }
            }
            decoder.finish(directories.len())?;
        }
        Ok(())
    }

    /// Asks for files; their tree is to be read to its end before anything else. Ask for at most
    /// [`MOST_PATHS`] bytes of paths, in the order of their bytes.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn fetch(&mut self, paths: &[Vec<u8>], limits: Limits) -> Result<Reader<&mut S>> {
        frame::write(&mut self.stream, kind::FETCH, &encode_paths(paths))?;
        Ok(Reader::new(&mut self.stream, limits))
    }

    /// Gives a tree; `send` writes it without its end.
    ///
    /// # Errors
    /// Those of the stream and of `send`; [`TreeError::Peer`] when it was not taken.
    pub fn place(
        &mut self,
        send: impl FnOnce(&mut Writer<&mut S>) -> Result<Summary>,
    ) -> Result<Summary> {
        frame::write(&mut self.stream, kind::PLACE, &[])?;
        let mut writer = Writer::new(&mut self.stream);
        let summary = send(&mut writer)?;
        writer.done()?;
        self.answer()?;
        Ok(summary)
    }

    /// Removes files.
    ///
    /// # Errors
    /// Those of the stream; [`TreeError::Peer`] when one cannot be removed.
    pub fn remove(&mut self, paths: &[Vec<u8>]) -> Result<()> {
        for paths in chunks(paths) {
            frame::write(&mut self.stream, kind::REMOVE, &encode_paths(paths))?;
            self.answer()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<()> {
        let Frame { kind, .. } = self.frame()?;
        match kind {
            kind::DONE => Ok(()),
            _ => Err(TreeError::Protocol("an unexpected answer")),
        }
    }

    fn frame(&mut self) -> Result<Frame> {
        let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let frame = frame::read(&mut self.stream)?.ok_or_else(ended)?;
        match frame.kind {
            kind::ERROR => {
                let error = serde_json::from_slice::<CallError>(&frame.payload)
                    .map_err(|_| TreeError::Protocol("an error that is none"))?;
                let end = error.message.floor_char_boundary(LONGEST_WORDS);
                Err(TreeError::Peer(shown(&error.message.as_bytes()[..end])))
            }
            _ => Ok(frame),
        }
    }
}

/// In pieces that fit into a request.
pub fn chunks(paths: &[Vec<u8>]) -> impl Iterator<Item = &[Vec<u8>]> {
    let mut rest = paths;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut fits = |path: &Vec<u8>| {
            bytes += path.len() + 1;
            bytes <= MOST_PATHS
        };
        // One path is never longer than a request.
        let count = rest.iter().take_while(|path| fits(path)).count();
        let (chunk, more) = rest.split_at(count);
        rest = more;
        (!chunk.is_empty()).then_some(chunk)
    })
}
