//! The blocks of the image: allocation as data streams in, and coalesced positioned writes.
//!
//! Blocks of zeros are never written, so the file stays sparse. Blocks of dropped files are used
//! again by later files that fit, and punched out at the end.

mod direct;
mod file;
mod free;
mod output;

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::Attributes;
use crate::erofs::Packer;
use crate::tree::Extents;
pub(crate) use file::{CHUNK, FileWriter, is_zero};
use free::Free;
pub(crate) use output::Output;

/// Bytes in a block.
pub(crate) const BLOCK: usize = 4096;
const BLOCK_U64: u64 = BLOCK as u64;
/// The longest initialised extent of ext4.
const EXTENT_BLOCKS: u32 = 32768;

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First block within the file.
    pub(crate) logical: u32,
    pub(crate) len: u32,
    /// First block within the image; what a [`Packer`] makes of a file says more in the high bits.
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
    /// Stores contents in another form than as blocks of zeros and others.
    packer: Option<Box<Packer>>,
}

impl<'f> Data<'f> {
    pub(crate) fn new(file: &'f File, usable: Usable) -> Self {
        Data {
            out: Output::new(file),
            usable,
            next: usable(0).start,
            free: Free::default(),
            extents: Vec::new(),
            chunk: Vec::new(),
            reuse: 0..0,
            packer: None,
        }
    }

    /// Contents go through `packer`.
    pub(crate) fn packed(file: &'f File, usable: Usable, packer: Packer) -> Self {
        Data {
            packer: Some(Box::new(packer)),
            ..Data::new(file, usable)
        }
    }

    /// Writes go past the page cache from now on; `direct` is the same file, opened with O_DIRECT.
    pub(crate) fn divert(&mut self, direct: File) -> io::Result<()> {
        self.out.divert(direct)
    }

    pub(crate) fn take_packer(&mut self) -> Option<Box<Packer>> {
        self.packer.take()
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

    /// Begins a file of about `stored` stored bytes and `size` bytes with its holes.
    pub(crate) fn begin<'d>(
        &'d mut self,
        stored: u64,
        size: u64,
        attributes: &'d Attributes,
    ) -> FileWriter<'d, 'f> {
        let whole_chunks = match &mut self.packer {
            Some(packer) => packer.begin(stored, size),
            None => false,
        };
        let blocks = stored.div_ceil(BLOCK_U64);
        if blocks > 0
            && !whole_chunks
            && let Some(range) = self.free.take(blocks)
        {
            self.reuse = range;
        }
        if self.chunk.is_empty() {
            self.chunk = vec![0; CHUNK];
        }
        FileWriter::new(self, attributes)
    }

    /// Gives blocks back.
    pub(crate) fn release(&mut self, extents: Extents) {
        for i in 0..extents.count {
            let extent = self.extents[(extents.first + i) as usize];
            let (start, len) = match &mut self.packer {
                Some(packer) => packer.release(&extent),
                None => (extent.start, u64::from(extent.len)),
            };
            self.free.insert(start, len);
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
            output::punch(self.out.file, run)?;
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
    pub(crate) fn allocate(&mut self, want: u64) -> Range<u64> {
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

    /// As [`Self::allocate_run`], out of what the current file takes if that is enough.
    pub(crate) fn allocate_whole(&mut self, blocks: u64) -> u64 {
        if self.reuse.end - self.reuse.start >= blocks {
            let start = self.reuse.start;
            self.reuse.start += blocks;
            return start;
        }
        self.allocate_run(blocks)
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

    /// Where the next extent will be.
    pub(crate) fn extents_mut(&mut self) -> &mut Vec<Extent> {
        &mut self.extents
    }

    /// Appends a run to the file whose extents begin at `first`.
    pub(crate) fn push_extent(
        &mut self,
        first: usize,
        mut logical: u32,
        mut start: u64,
        mut len: u32,
    ) {
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
