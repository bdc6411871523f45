//! The blocks of the image: allocation as data streams in, and coalesced positioned writes.
//!
//! Blocks of zeros are never written, so the file stays sparse. Blocks of dropped files are used
//! again by later files that fit, and punched out at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::tree::Extents;

/// Bytes in a block.
pub(crate) const BLOCK: usize = 4096;
const BLOCK_U64: u64 = BLOCK as u64;
/// The longest initialised extent of ext4.
const EXTENT_BLOCKS: u32 = 32768;
const OUT: usize = 1 << 20;
const CHUNK: usize = 256 << 10;
/// Runs at least this long go to the file without being gathered first.
const DIRECT: usize = 64 << 10;

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First block within the file.
    pub(crate) logical: u32,
    pub(crate) len: u32,
    /// First block within the image.
    pub(crate) start: u64,
}

/// The first run of allocatable blocks at or after a block. What lies between is the file
/// system's own.
pub(crate) type Usable = fn(u64) -> Range<u64>;

/// Why a file could not be taken over from its reader.
#[derive(Debug)]
pub(crate) enum StreamError<E> {
    Read(E),
    Write(io::Error),
    /// Beyond 2³² blocks, or more extents than can be counted.
    TooLarge,
}

/// Positioned writer that gathers neighbouring blocks.
struct Output<'f> {
    file: &'f File,
    buffer: Vec<u8>,
    /// Block of the first byte gathered.
    start: u64,
}

impl Output<'_> {
    fn write(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        let end = self.start + (self.buffer.len() / BLOCK) as u64;
        if block != end || self.buffer.len() + bytes.len() > OUT {
            self.flush()?;
        }
        if bytes.len() >= DIRECT && self.buffer.is_empty() {
            return self.file.write_all_at(bytes, block * BLOCK_U64);
        }
        if self.buffer.is_empty() {
            self.start = block;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file
                .write_all_at(&self.buffer, self.start * BLOCK_U64)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Free runs below the tail, found by place and by length.
#[derive(Default)]
struct Free {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
}

impl Free {
    fn insert(&mut self, mut start: u64, mut len: u64) {
        if len == 0 {
            return;
        }
        if let Some((&before, &n)) = self.by_start.range(..start).next_back()
            && before + n == start
        {
            self.remove(before, n);
            start = before;
            len += n;
        }
        if let Some(&n) = self.by_start.get(&(start + len)) {
            self.remove(start + len, n);
            len += n;
        }
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }

    /// Takes the shortest run of at least `len` blocks.
    fn take(&mut self, len: u64) -> Option<Range<u64>> {
        let &(n, start) = self.by_len.range((len, 0)..).next()?;
        self.remove(start, n);
        Some(start..start + n)
    }
}

/// The image's blocks.
pub(crate) struct Data<'f> {
    out: Output<'f>,
    usable: Usable,
    /// First block never allocated.
    next: u64,
    free: Free,
    extents: Vec<Extent>,
    chunk: Vec<u8>,
    /// Blocks the current file takes from a freed run.
    reuse: Range<u64>,
}

impl<'f> Data<'f> {
    pub(crate) fn new(file: &'f File, usable: Usable) -> Self {
        Data {
            out: Output {
                file,
                buffer: Vec::with_capacity(OUT),
                start: 0,
            },
            usable,
            next: usable(0).start,
            free: Free::default(),
            extents: Vec::new(),
            chunk: Vec::new(),
            reuse: 0..0,
        }
    }

    pub(crate) fn file(&self) -> &'f File {
        self.out.file
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Free runs below [`Self::next`], in order.
    pub(crate) fn free_runs(&self) -> impl Iterator<Item = Range<u64>> {
        self.free
            .by_start
            .iter()
            .map(|(&start, &len)| start..start + len)
    }

    pub(crate) fn extents(&self, extents: Extents) -> &[Extent] {
        &self.extents[extents.first as usize..][..extents.count as usize]
    }

    /// Begins a file of about `bytes` stored bytes.
    pub(crate) fn begin(&mut self, bytes: u64) -> FileWriter<'_, 'f> {
        let blocks = bytes.div_ceil(BLOCK_U64);
        if blocks > 0
            && let Some(range) = self.free.take(blocks)
        {
            self.reuse = range;
        }
        if self.chunk.is_empty() {
            self.chunk = vec![0; CHUNK];
        }
        FileWriter {
            first: self.extents.len(),
            data: self,
            base: 0,
            filled: 0,
            size: 0,
        }
    }

    /// Gives blocks back.
    pub(crate) fn release(&mut self, extents: Extents) {
        for i in 0..extents.count {
            let extent = self.extents[(extents.first + i) as usize];
            self.free.insert(extent.start, u64::from(extent.len));
        }
    }

    /// Makes all released blocks holes again and gives back those at the end. After this, what is
    /// not allocated reads as zeros.
    pub(crate) fn punch(&mut self) -> io::Result<()> {
        self.out.flush()?;
        for run in self
            .free
            .by_start
            .iter()
            .map(|(&start, &len)| start..start + len)
        {
            punch(self.out.file, run)?;
        }
        if let Some((&start, &len)) = self.free.by_start.last_key_value()
            && start + len == self.next
        {
            self.free.remove(start, len);
            self.next = start;
        }
        Ok(())
    }

    /// Allocates up to `want` blocks in one run.
    fn allocate(&mut self, want: u64) -> Range<u64> {
        if !self.reuse.is_empty() {
            let start = self.reuse.start;
            let end = self.reuse.end.min(start + want);
            self.reuse.start = end;
            return start..end;
        }
        let usable = (self.usable)(self.next);
        let end = usable.end.min(usable.start + want);
        self.next = end;
        usable.start..end
    }

    /// Allocates `blocks` blocks in one run, at most what fits between two reserved places.
    pub(crate) fn allocate_run(&mut self, blocks: u64) -> u64 {
        loop {
            let usable = (self.usable)(self.next);
            if usable.end - usable.start >= blocks {
                self.next = usable.start + blocks;
                return usable.start;
            }
            self.free.insert(usable.start, usable.end - usable.start);
            self.next = usable.end;
        }
    }

    /// Allocates `blocks` blocks as extents of one new file without writing them.
    pub(crate) fn allocate_extents(&mut self, blocks: u32) -> Extents {
        let first = self.extents.len();
        let mut logical = 0;
        while logical < blocks {
            let run = self.allocate(u64::from(blocks - logical));
            let len = (run.end - run.start) as u32;
            self.push_extent(first, logical, run.start, len);
            logical += len;
        }
        Extents {
            first: first as u32,
            count: (self.extents.len() - first) as u32,
        }
    }

    /// Writes whole blocks.
    pub(crate) fn write(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert_eq!(bytes.len() % BLOCK, 0, "whole blocks");
        self.out.write(block, bytes)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Extents of one block each, none of them written.
    #[cfg(test)]
    pub(crate) fn fragmented(&mut self, count: u32) -> Extents {
        let first = self.extents.len();
        for i in 0..count {
            let start = self.allocate(1).start;
            self.push_extent(first, 2 * i, start, 1);
        }
        Extents {
            first: first as u32,
            count,
        }
    }

    fn push_extent(&mut self, first: usize, mut logical: u32, mut start: u64, mut len: u32) {
        if self.extents.len() > first
            && let Some(last) = self.extents.last_mut()
            && last.logical + last.len == logical
            && last.start + u64::from(last.len) == start
        {
            let more = len.min(EXTENT_BLOCKS - last.len);
            last.len += more;
            logical += more;
            start += u64::from(more);
            len -= more;
        }
        while len > 0 {
            let n = len.min(EXTENT_BLOCKS);
            self.extents.push(Extent {
                logical,
                len: n,
                start,
            });
            logical += n;
            start += u64::from(n);
            len -= n;
        }
    }
}

/// One file on its way to the image.
pub(crate) struct FileWriter<'d, 'f> {
    data: &'d mut Data<'f>,
    first: usize,
    /// Position in the file of the chunk's first byte; a multiple of the block size.
    base: u64,
    /// Bytes in the chunk.
    filled: usize,
    size: u64,
}

impl FileWriter<'_, '_> {
    /// Moves on to `offset`, leaving a hole; never back.
    pub(crate) fn seek<E>(&mut self, offset: u64) -> Result<(), StreamError<E>> {
        let at = self.base + self.filled as u64;
        debug_assert!(offset >= at, "holes only lead forward");
        self.size = self.size.max(offset);
        if offset - self.base < CHUNK as u64 {
            let to = (offset - self.base) as usize;
            self.data.chunk[self.filled..to].fill(0);
            self.filled = to;
            return Ok(());
        }
        self.store()?;
        self.base = offset - offset % BLOCK_U64;
        self.filled = (offset % BLOCK_U64) as usize;
        self.data.chunk[..self.filled].fill(0);
        Ok(())
    }

    /// Takes up to `limit` bytes, or all there are, and returns how many came.
    pub(crate) fn copy<E>(
        &mut self,
        limit: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<u64, StreamError<E>> {
        let mut copied = 0;
        while copied < limit {
            if self.filled == CHUNK {
                self.store()?;
            }
            let room = (CHUNK - self.filled) as u64;
            let end = self.filled + room.min(limit - copied) as usize;
            let n = read(&mut self.data.chunk[self.filled..end]).map_err(StreamError::Read)?;
            if n == 0 {
                break;
            }
            self.filled += n;
            copied += n as u64;
        }
        self.size = self.size.max(self.base + self.filled as u64);
        Ok(copied)
    }

    /// Ends the file; what follows the last byte up to `size` is a hole.
    pub(crate) fn finish<E>(mut self, size: u64) -> Result<(u64, Extents), StreamError<E>> {
        self.store()?;
        let size = self.size.max(size);
        if size > (u64::from(u32::MAX) - 1) * BLOCK_U64 {
            return Err(StreamError::TooLarge);
        }
        let reuse = std::mem::replace(&mut self.data.reuse, 0..0);
        self.data.free.insert(reuse.start, reuse.end - reuse.start);
        let first = u32::try_from(self.first).map_err(|_| StreamError::TooLarge)?;
        let count = u32::try_from(self.data.extents.len() - self.first)
            .map_err(|_| StreamError::TooLarge)?;
        Ok((size, Extents { first, count }))
    }

    /// Writes the chunk's blocks that are not all zeros.
    fn store<E>(&mut self) -> Result<(), StreamError<E>> {
        let blocks = self.filled.div_ceil(BLOCK);
        let logical = u32::try_from(self.base / BLOCK_U64 + blocks as u64)
            .map_err(|_| StreamError::TooLarge)?
            - blocks as u32;
        let mut chunk = std::mem::take(&mut self.data.chunk);
        chunk[self.filled..blocks * BLOCK].fill(0);
        let stored = self.store_runs(&chunk[..blocks * BLOCK], logical);
        self.data.chunk = chunk;
        self.base += (blocks * BLOCK) as u64;
        self.filled = 0;
        stored.map_err(StreamError::Write)
    }

    fn store_runs(&mut self, chunk: &[u8], logical: u32) -> io::Result<()> {
        let blocks = chunk.len() / BLOCK;
        let mut at = 0;
        while at < blocks {
            if is_zero(&chunk[at * BLOCK..(at + 1) * BLOCK]) {
                at += 1;
                continue;
            }
            let mut end = at + 1;
            while end < blocks && !is_zero(&chunk[end * BLOCK..(end + 1) * BLOCK]) {
                end += 1;
            }
            while at < end {
                let run = self.data.allocate((end - at) as u64);
                let n = (run.end - run.start) as usize;
                self.data
                    .out
                    .write(run.start, &chunk[at * BLOCK..(at + n) * BLOCK])?;
                self.data
                    .push_extent(self.first, logical + at as u32, run.start, n as u32);
                at += n;
            }
        }
        Ok(())
    }
}

pub(crate) fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}

fn punch(file: &File, run: Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (offset, len) = (run.start * BLOCK_U64, (run.end - run.start) * BLOCK_U64);
    match fallocate(file, flags, offset as i64, len as i64) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            // Zeros in place keep the image's bytes the same on every host.
            let zeros = vec![0; OUT];
            let mut at = offset;
            while at < offset + len {
                let n = (offset + len - at).min(OUT as u64);
                file.write_all_at(&zeros[..n as usize], at)?;
                at += n;
            }
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}
