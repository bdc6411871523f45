//! The stream of a tree: frames of [`banger_wire::frame`]'s form, and what may follow what.

use std::io::{self, BufReader, IoSlice, Read, Write};

use crate::entry::{Entry, Kind};
use crate::error::{Result, TreeError};

/// Directories within directories; each holds a descriptor open on both sides.
pub const MAX_DEPTH: usize = 400;
/// Largest piece of content in one frame, in bytes.
pub(crate) const CHUNK: usize = 128 * 1024;

const ENTRY: u8 = 1;
const DATA: u8 = 2;
const HOLE: u8 = 3;
const END: u8 = 4;
const DONE: u8 = 5;
const PROBLEM: u8 = 6;
const ERROR: u8 = 7;

const HEADER: usize = 5;
const MAX_FRAME: usize = 256 * 1024;
const LONGEST_WORDS: usize = 4096;
/// Frames are sent when so many bytes of them are together.
const FLUSH_AT: usize = 64 * 1024;

/// Where a hostile stream is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all kinds, and what was left out.
    pub entries: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 10_000_000,
            bytes: u64::MAX,
        }
    }
}

/// What comes next in a tree.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// An entry; a directory's entries follow until [`Step::Leave`], a file's content comes from
    /// [`Reader::chunk`].
    Entry(Entry),
    /// The end of the innermost directory.
    Leave,
    /// Something that the sender left out, in its words.
    Problem(String),
    /// The end of the tree.
    Done,
}

/// A piece of a file, with its bytes or how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<D> {
    /// Bytes.
    Data(D),
    /// So many zeros, which the sender does not store.
    Hole(u64),
    /// The end of the file.
    End,
}

/// Reads a tree and enforces its form and limits.
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    payload: Vec<u8>,
    limits: Limits,
    depth: usize,
    in_file: bool,
    /// Bytes of the current piece of content that were not read yet.
    left: usize,
    /// Length of the current file so far.
    length: u64,
    entries: u64,
    problems: u64,
    bytes: u64,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R, limits: Limits) -> Self {
        Reader {
            input: BufReader::with_capacity(16 * 1024, input),
            payload: Vec::new(),
            limits,
            depth: 0,
            in_file: false,
            left: 0,
            length: 0,
            entries: 0,
            problems: 0,
            bytes: 0,
        }
    }

    /// Entries and bytes of content so far.
    pub fn seen(&self) -> (u64, u64) {
        (self.entries, self.bytes)
    }

    /// What comes next; not inside a file.
    ///
    /// # Errors
    /// [`TreeError::Peer`] when the sender gave up; a broken protocol; a limit.
    pub fn next_step(&mut self) -> Result<Step> {
        if self.in_file {
            return Err(TreeError::Protocol("content was left unread"));
        }
        match self.frame()? {
            ENTRY => self.entry().map(Step::Entry),
            END if self.depth > 0 => {
                self.depth -= 1;
                Ok(Step::Leave)
            }
            DONE if self.depth == 0 => Ok(Step::Done),
            PROBLEM => {
                self.problems += 1;
                self.within_limit()?;
                Ok(Step::Problem(self.words()))
            }
            ERROR => Err(TreeError::Peer(self.words())),
            _ => Err(TreeError::Protocol("an unexpected frame")),
        }
    }

    fn entry(&mut self) -> Result<Entry> {
        let entry = Entry::decode(&self.payload)?;
        self.entries += 1;
        self.within_limit()?;
        match entry.kind {
            Kind::Directory { .. } => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(TreeError::Refused(format!(
                        "more than {MAX_DEPTH} directories within each other"
                    )));
                }
            }
            Kind::File { .. } => {
                self.in_file = true;
                self.length = 0;
            }
            Kind::Symlink { .. } | Kind::Hardlink { .. } | Kind::Fifo => {}
        }
        Ok(entry)
    }

    fn within_limit(&self) -> Result<()> {
        match self.entries + self.problems > self.limits.entries {
            true => Err(TreeError::Refused(format!(
                "more than {} entries",
                self.limits.entries
            ))),
            false => Ok(()),
        }
    }

    /// The next piece of the file whose entry came last.
    ///
    /// # Errors
    /// As [`Reader::next_step`].
    pub fn chunk(&mut self) -> Result<Chunk<&[u8]>> {
        match self.piece()? {
            Chunk::Data(()) => {
                self.payload.resize(self.left, 0);
                self.left = 0;
                self.input.read_exact(&mut self.payload).map_err(ended)?;
                Ok(Chunk::Data(&self.payload))
            }
            Chunk::Hole(length) => Ok(Chunk::Hole(length)),
            Chunk::End => Ok(Chunk::End),
        }
    }

    /// As [`Reader::chunk`], with the bytes at the beginning of `room`, as many as fit.
    ///
    /// # Errors
    /// As [`Reader::next_step`].
    pub fn chunk_into(&mut self, room: &mut [u8]) -> Result<Chunk<usize>> {
        match self.piece()? {
            Chunk::Data(()) => {
                let count = self.left.min(room.len());
                self.left -= count;
                let room = &mut room[..count];
                self.input.read_exact(room).map_err(ended)?;
                Ok(Chunk::Data(count))
            }
            Chunk::Hole(length) => Ok(Chunk::Hole(length)),
            Chunk::End => Ok(Chunk::End),
        }
    }

    /// What comes next in a file; of content, `left` bytes follow.
    fn piece(&mut self) -> Result<Chunk<()>> {
        if !self.in_file {
            return Ok(Chunk::End);
        }
        if self.left > 0 {
            return Ok(Chunk::Data(()));
        }
        let (kind, length) = self.header()?;
        if kind == DATA {
            self.bytes += length as u64;
            if self.bytes > self.limits.bytes {
                return Err(TreeError::Refused(format!(
                    "more than {} bytes of content",
                    self.limits.bytes
                )));
            }
            self.grow(length as u64)?;
            self.left = length;
            return Ok(Chunk::Data(()));
        }
        self.payload(length)?;
        match kind {
            HOLE => {
                let length = <[u8; 8]>::try_from(&self.payload[..])
                    .map(u64::from_le_bytes)
                    .map_err(|_| TreeError::Protocol("a malformed hole"))?;
                self.grow(length)?;
                Ok(Chunk::Hole(length))
            }
            END => {
                self.in_file = false;
                Ok(Chunk::End)
            }
            ERROR => Err(TreeError::Peer(self.words())),
            _ => Err(TreeError::Protocol("an unexpected frame in a file")),
        }
    }

    fn grow(&mut self, length: u64) -> Result<()> {
        if length == 0 {
            // No limit would ever stop them.
            return Err(TreeError::Protocol("an empty piece of a file"));
        }
        self.length = self
            .length
            .checked_add(length)
            .filter(|length| i64::try_from(*length).is_ok())
            .ok_or(TreeError::Protocol(
                "a file that is longer than files can be",
            ))?;
        Ok(())
    }

    fn frame(&mut self) -> Result<u8> {
        let (kind, length) = self.header()?;
        self.payload(length)?;
        Ok(kind)
    }

    fn header(&mut self) -> Result<(u8, usize)> {
        let mut header = [0; HEADER];
        self.input.read_exact(&mut header).map_err(ended)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > MAX_FRAME {
            return Err(TreeError::Protocol("a frame that is too long"));
        }
        Ok((header[0], length))
    }

    fn payload(&mut self, length: usize) -> Result<()> {
        self.payload.resize(length, 0);
        self.input.read_exact(&mut self.payload).map_err(ended)
    }

    fn words(&self) -> String {
        let end = self.payload.len().min(LONGEST_WORDS);
        let text = String::from_utf8_lossy(&self.payload[..end]);
        text.chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect()
    }
}

fn ended(error: io::Error) -> TreeError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            TreeError::Stream(io::Error::new(error.kind(), "the other side ended early"))
        }
        _ => TreeError::Stream(error),
    }
}

/// Writes a tree; small frames are collected.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`.
    pub fn new(output: W) -> Self {
        Writer {
            output,
            buffer: Vec::with_capacity(FLUSH_AT + CHUNK + 2 * HEADER),
        }
    }

    /// An entry; end a directory, and a file after its content, with [`Writer::end`].
    ///
    /// # Errors
    /// Those of the writer.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let mut payload = Vec::with_capacity(128);
        entry.encode(&mut payload);
        if payload.len() > MAX_FRAME {
            return Err(io::Error::other("an entry that is too long"));
        }
        self.frame(ENTRY, &payload)
    }

    /// Content of the last file.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(CHUNK).try_for_each(|chunk| match chunk.len() {
            FLUSH_AT.. => self.large_frame(DATA, chunk),
            _ => self.frame(DATA, chunk),
        })
    }

    /// Content of the last file, read straight into the frame; returns how much, 0 at the end.
    ///
    /// # Errors
    /// Those of `source` and of the writer.
    pub fn data_from(&mut self, source: &mut impl Read, most: u64) -> Result<usize> {
        let start = self.buffer.len();
        let most = CHUNK.min(usize::try_from(most).unwrap_or(CHUNK));
        self.buffer.resize(start + HEADER + most, 0);
        let read = loop {
            match source.read(&mut self.buffer[start + HEADER..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let count = *read.as_ref().unwrap_or(&0);
        if count == 0 {
            self.buffer.truncate(start);
            return read.map_err(TreeError::reading);
        }
        self.buffer[start] = DATA;
        self.buffer[start + 1..start + HEADER].copy_from_slice(&(count as u32).to_le_bytes());
        self.buffer.truncate(start + HEADER + count);
        self.flush_if_full()?;
        Ok(count)
    }

    /// Zeros that are not stored.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn hole(&mut self, length: u64) -> io::Result<()> {
        self.frame(HOLE, &length.to_le_bytes())
    }

    /// Ends the last file, or the innermost directory.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn end(&mut self) -> io::Result<()> {
        self.frame(END, &[])
    }

    /// Says that something was left out.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn problem(&mut self, words: &str) -> io::Result<()> {
        self.frame(PROBLEM, cut(words))
    }

    /// Ends the tree.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn done(&mut self) -> io::Result<()> {
        self.frame(DONE, &[])?;
        self.flush()
    }

    /// Gives up, and says why.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn fail(&mut self, words: &str) -> io::Result<()> {
        self.frame(ERROR, cut(words))?;
        self.flush()
    }

    /// Sends what was collected.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.write_all(&self.buffer)?;
        self.buffer.clear();
        self.output.flush()
    }

    /// The writer below.
    pub fn output(&mut self) -> &mut W {
        &mut self.output
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.buffer.push(kind);
        self.buffer
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(payload);
        self.flush_if_full()
    }

    /// Without a copy of the payload.
    fn large_frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.buffer.push(kind);
        self.buffer
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        let mut slices = [IoSlice::new(&self.buffer), IoSlice::new(payload)];
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match self.output.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.clear();
        self.output.flush()
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= FLUSH_AT {
            self.flush()?;
        }
        Ok(())
    }
}

fn cut(words: &str) -> &[u8] {
    &words.as_bytes()[..words.floor_char_boundary(LONGEST_WORDS)]
}
