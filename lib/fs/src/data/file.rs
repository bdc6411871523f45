//! One file's content on its way to blocks.

use std::io;

use super::{BLOCK, BLOCK_U64, Data, StreamError};
use crate::Attributes;
use crate::tree::Extents;

/// Bytes that are gathered before blocks are allocated for them.
pub(crate) const CHUNK: usize = 256 << 10;

/// One file on its way to the image.
pub(crate) struct FileWriter<'d, 'f> {
    data: &'d mut Data<'f>,
    attributes: &'d Attributes,
    first: usize,
    /// Position in the file of the chunk's first byte; a multiple of the block size.
    base: u64,
    /// Bytes in the chunk.
    filled: usize,
    size: u64,
}

impl<'d, 'f> FileWriter<'d, 'f> {
    pub(super) fn new(data: &'d mut Data<'f>, attributes: &'d Attributes) -> Self {
        FileWriter {
            first: data.extents.len(),
            data,
            attributes,
            base: 0,
            filled: 0,
            size: 0,
        }
    }

    /// Moves on to `offset`, leaving a hole; never back.
    pub(crate) fn seek<E>(&mut self, offset: u64) -> Result<(), StreamError<E>> {
        let at = self.base + self.filled as u64;
        debug_assert!(offset >= at, "holes only lead forward");
        self.size = self.size.max(offset);
        let packs_holes = self.data.packer.as_ref().is_some_and(|p| p.packs_holes());
        while packs_holes && offset - self.base >= CHUNK as u64 {
            self.data.chunk[self.filled..].fill(0);
            self.filled = CHUNK;
            self.store()?;
        }
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

    /// Takes all of `bytes`. Whole blocks go on as they are: most content is never copied here.
    pub(crate) fn write<E>(&mut self, mut bytes: &[u8]) -> Result<(), StreamError<E>> {
        let packed = self.data.packer.is_some();
        while !bytes.is_empty() {
            if self.filled == CHUNK {
                self.store()?;
            }
            if self.filled == 0 && !packed && bytes.len() >= BLOCK {
                let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
                let logical = self.logical(whole.len() / BLOCK)?;
                self.data
                    .store_runs(self.first, whole, logical)
                    .map_err(StreamError::Write)?;
                self.base += whole.len() as u64;
                bytes = rest;
                continue;
            }
            let end = match packed {
                true => CHUNK,
                false => (self.filled + 1).next_multiple_of(BLOCK),
            };
            let (next, rest) = bytes.split_at(bytes.len().min(end - self.filled));
            self.data.chunk[self.filled..][..next.len()].copy_from_slice(next);
            self.filled += next.len();
            bytes = rest;
            if !packed && self.filled.is_multiple_of(BLOCK) {
                self.store()?;
            }
        }
        self.size = self.size.max(self.base + self.filled as u64);
        Ok(())
    }

    /// Ends the file; what follows the last byte up to `size` is a hole.
    pub(crate) fn finish<E>(mut self, size: u64) -> Result<(u64, Extents), StreamError<E>> {
        if size > self.size && self.data.packer.as_ref().is_some_and(|p| p.packs_holes()) {
            self.seek(size)?;
        }
        let size = self.size.max(size);
        if !self.store_inline(size).map_err(StreamError::Write)? {
            self.store()?;
        }
        if let Some(packer) = &self.data.packer {
            packer.finish(&mut self.data.extents[self.first..]);
        }
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

    /// Stores a small file beside its metadata, where the file system can.
    fn store_inline(&mut self, size: u64) -> io::Result<bool> {
        if self.base > 0 || size != self.filled as u64 {
            return Ok(false);
        }
        let Some(mut packer) = self.data.packer.take() else {
            return Ok(false);
        };
        let chunk = std::mem::take(&mut self.data.chunk);
        let stored = packer.inline(self.data, self.attributes, &chunk[..self.filled]);
        self.data.chunk = chunk;
        self.data.packer = Some(packer);
        if stored? {
            self.filled = 0;
            return Ok(true);
        }
        Ok(false)
    }

    /// The first of so many blocks that come next.
    fn logical<E>(&self, blocks: usize) -> Result<u32, StreamError<E>> {
        let end = u32::try_from(self.base / BLOCK_U64 + blocks as u64);
        Ok(end.map_err(|_| StreamError::TooLarge)? - blocks as u32)
    }

    /// Writes the chunk's blocks that are not all zeros, or packs them.
    fn store<E>(&mut self) -> Result<(), StreamError<E>> {
        let blocks = self.filled.div_ceil(BLOCK);
        let logical = self.logical(blocks)?;
        let mut chunk = std::mem::take(&mut self.data.chunk);
        chunk[self.filled..blocks * BLOCK].fill(0);
        let padded = &chunk[..blocks * BLOCK];
        let stored = match self.data.packer.take() {
            Some(mut packer) => {
                let stored = packer.store(self.data, self.first, padded, self.filled, logical);
                self.data.packer = Some(packer);
                stored
            }
            None => self.data.store_runs(self.first, padded, logical),
        };
        self.data.chunk = chunk;
        self.base += (blocks * BLOCK) as u64;
        self.filled = 0;
        stored.map_err(StreamError::Write)
    }
}

impl Data<'_> {
    /// Writes the runs of a file's blocks that are not zeros.
    pub(crate) fn store_runs(
        &mut self,
        first: usize,
        chunk: &[u8],
        logical: u32,
    ) -> io::Result<()> {
        let blocks = chunk.len() / BLOCK;
        let block = |at: usize| &chunk[at * BLOCK..(at + 1) * BLOCK];
        let mut at = 0;
        while at < blocks {
            if is_zero(block(at)) {
                at += 1;
                continue;
            }
            let mut end = at + 1;
            while end < blocks && !is_zero(block(end)) {
                end += 1;
            }
            self.store_run(first, &chunk[at * BLOCK..end * BLOCK], logical + at as u32)?;
            at = end;
        }
        Ok(())
    }

    /// Writes a file's blocks, whatever is in them.
    pub(crate) fn store_run(&mut self, first: usize, bytes: &[u8], logical: u32) -> io::Result<()> {
        let blocks = bytes.len() / BLOCK;
        let mut at = 0;
        while at < blocks {
            let run = self.allocate((blocks - at) as u64);
            let n = (run.end - run.start) as usize;
            self.out
                .write(run.start, &bytes[at * BLOCK..(at + n) * BLOCK])?;
            self.push_extent(first, logical + at as u32, run.start, n as u32);
            at += n;
        }
        Ok(())
    }
}

/// Whether all bytes are zeros.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}
