//! A reader of tar streams: ustar, GNU and PAX, with every sparse format left as a map.
//!
//! The `tar` crate expands GNU sparse files to streams of zeros, which one header can make
//! petabytes long, and leaves PAX sparse files unexpanded; hence this one. It never panics on any
//! input and never allocates by a length field alone.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead};

pub(crate) use header::Kind;
use header::{Header, RECORD};
use pax::Pax;

/// Most bytes of one PAX header or GNU long name.
const EXTENSION: u64 = 1 << 20;

/// Why a stream ended early.
#[derive(Debug)]
pub(crate) enum TarError {
    /// The reader failed.
    Read(io::Error),
    /// Not tar at all: the first record is no header.
    NotTar(&'static str),
    /// Damaged at this byte.
    Damaged(u64, &'static str),
}

type Result<T> = std::result::Result<T, TarError>;

/// Metadata of one entry, names as the archive has them.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of each stored piece, ascending; `None` when nothing is left out.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// The stream.
pub(crate) struct Archive<R> {
    input: R,
    /// Bytes taken from the input.
    offset: u64,
    /// Content of the current entry not yet read.
    left: u64,
    /// Fill after that content.
    padding: u64,
    started: bool,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Archive {
            input,
            offset: 0,
            left: 0,
            padding: 0,
            started: false,
        }
    }

    /// The next entry, after skipping what is left of the one before.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        loop {
            let skip = self.left + self.padding;
            self.skip(skip)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.type_flag() {
                b'x' => {
                    let bytes = self.extension(&header)?;
                    pax.parse(&bytes).map_err(|reason| self.damaged(reason))?;
                }
                b'L' => long_path = Some(terminated(self.extension(&header)?)),
                b'K' => long_link = Some(terminated(self.extension(&header)?)),
                // Global headers and volume labels say nothing about any entry.
                b'g' | b'V' => self.begin_content(self.number(header.size())?),
                _ => return self.entry(&header, pax, long_path, long_link).map(Some),
            }
        }
    }

    /// Content of the current entry, pieces of sparse files one after the other.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = (buffer.len() as u64).min(self.left) as usize;
        if want == 0 {
            return Ok(0);
        }
        let n = self.fill(&mut buffer[..want])?;
        if n == 0 {
            return Err(self.damaged("the content is truncated"));
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// Content of the current entry as it is in the stream's own buffer, without consuming it; empty
    /// at the end of the entry only.
    pub(crate) fn content(&mut self) -> Result<&[u8]> {
        let left = self.left;
        if left == 0 {
            return Ok(&[]);
        }
        if self.peek()?.is_empty() {
            return Err(self.damaged("the content is truncated"));
        }
        let bytes = self.peek()?;
        Ok(&bytes[..left.min(bytes.len() as u64) as usize])
    }

    /// Consumes so many bytes of what [`Archive::content`] returned.
    pub(crate) fn take(&mut self, count: usize) {
        self.left -= count as u64;
        self.consume(count);
    }

    /// Reads to the very end of the stream, whatever it holds.
    pub(crate) fn drain(mut self) -> Result<()> {
        loop {
            let count = self.peek()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        mut pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let mut kind = header.kind();
        let path = pax.sparse_name.take().or(pax.path.take()).or(long_path);
        let path = path.unwrap_or_else(|| header.path());
        if header.type_flag() == 0 && path.last() == Some(&b'/') {
            kind = Kind::Directory;
        }
        let link = pax
            .link
            .take()
            .or(long_link)
            .unwrap_or_else(|| header.link());
        let stored = match pax.size {
            Some(size) => size,
            None => self.number(header.size())?,
        };
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: self.number(header.mode())? as u32 & 0o7777,
            uid: pax.uid.map_or_else(|| self.number(header.uid()), Ok)?,
            gid: pax.gid.map_or_else(|| self.number(header.gid()), Ok)?,
            seconds: 0,
            nanos: 0,
            size: 0,
            major: 0,
            minor: 0,
            xattrs: std::mem::take(&mut pax.xattrs),
            sparse: None,
        };
        (entry.seconds, entry.nanos) = match pax.mtime {
            Some(time) => time,
            None => (self.number(header.mtime())?, 0),
        };
        if kind == Kind::Device(true) || kind == Kind::Device(false) {
            entry.major = self.number(header.major())?;
            entry.minor = self.number(header.minor())?;
        }
        // As Go's reader: other types have no content, whatever their size field says.
        if kind == Kind::File {
            entry.size = stored as u64;
            if stored < 0 {
                return Err(self.damaged("negative size"));
            }
            self.begin_content(stored);
            self.sparse(header, &pax, &mut entry)?;
        } else if let Kind::Other(_) = kind {
            self.begin_content(stored.max(0));
        }
        Ok(entry)
    }

    /// Reads the sparse map, if any, and corrects the size.
    fn sparse(&mut self, header: &Header, pax: &Pax, entry: &mut Entry) -> Result<()> {
        let map = if header.type_flag() == b'S' {
            entry.size = self.number(header.real_size())? as u64;
            let mut map = Vec::new();
            let mut more = header.sparse_map(&mut map).map_err(|r| self.damaged(r))?;
            while more {
                let record = self
                    .record()?
                    .ok_or_else(|| self.damaged("truncated sparse map"))?;
                more = sparse::gnu_extension(&record, &mut map).map_err(|r| self.damaged(r))?;
                if map.len() > sparse::PIECES {
                    return Err(self.damaged("the sparse map is too long"));
                }
            }
            map
        } else if pax.sparse_version == (1, 0) {
            entry.size = pax.real_size.unwrap_or(entry.size);
            sparse::read_map(self)?
        } else if let Some(map) = &pax.sparse_map {
            entry.size = pax.real_size.unwrap_or(entry.size);
            map.clone()
        } else {
            return Ok(());
        };
        let map = sparse::check(map, entry.size, self.left).map_err(|r| self.damaged(r))?;
        entry.sparse = Some(map);
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let Some(record) = self.record()? else {
            return Ok(None);
        };
        if crate::data::is_zero(&record) {
            return Ok(None);
        }
        match Header::parse(record) {
            Ok(header) => {
                self.started = true;
                Ok(Some(header))
            }
            Err(reason) if self.started => Err(self.damaged(reason)),
            Err(reason) => Err(TarError::NotTar(reason)),
        }
    }

    /// One record, or `None` at the end of the stream.
    fn record(&mut self) -> Result<Option<[u8; RECORD]>> {
        let mut record = [0; RECORD];
        let mut filled = 0;
        while filled < RECORD {
            let n = self.fill(&mut record[filled..])?;
            if n == 0 && filled == 0 {
                return Ok(None);
            }
            if n == 0 {
                return Err(match self.started {
                    true => self.damaged("a header is truncated"),
                    false => TarError::NotTar("shorter than a header"),
                });
            }
            filled += n;
        }
        Ok(Some(record))
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = self.number(header.size())? as u64;
        if size > EXTENSION {
            return Err(self.damaged("an extended header is too long"));
        }
        self.begin_content(size as i64);
        let mut bytes = vec![0; size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += self.read(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }

    fn begin_content(&mut self, size: i64) {
        self.left = size as u64;
        self.padding = self.left.wrapping_neg() % RECORD as u64;
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let count = bytes.min(self.peek()?.len() as u64);
            if count == 0 {
                return Err(self.damaged("the content is truncated"));
            }
            self.consume(count as usize);
            bytes -= count;
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let bytes = self.peek()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }

    /// What comes next in the stream; empty at its end only.
    fn peek(&mut self) -> Result<&[u8]> {
        while let Err(error) = self.input.fill_buf() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(TarError::Read(error));
            }
        }
        // The same bytes again: a borrow cannot leave a loop that goes on.
        self.input.fill_buf().map_err(TarError::Read)
    }

    fn consume(&mut self, count: usize) {
        self.offset += count as u64;
        self.input.consume(count);
    }

    fn number(&self, number: std::result::Result<i64, &'static str>) -> Result<i64> {
        number.map_err(|reason| self.damaged(reason))
    }

    fn damaged(&self, reason: &'static str) -> TarError {
        TarError::Damaged(self.offset, reason)
    }
}

/// Bytes before the first NUL.
fn terminated(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
