//! Writes to the image file: neighbouring blocks are gathered, released ones become holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::direct::Direct;
use super::{BLOCK, BLOCK_U64};

/// Bytes of one write. Linux 6.18 takes five times as long for writes of 1 MiB, whose pages it has to
/// find in one piece.
const OUT: usize = 256 << 10;
/// Runs at least this long go to the file without being gathered first.
const DIRECT: usize = 64 << 10;

/// Positioned writer that gathers neighbouring blocks.
pub(crate) struct Output<'f> {
    pub(crate) file: &'f File,
    buffer: Vec<u8>,
    /// Block of the first byte gathered.
    start: u64,
    /// Does the same past the page cache.
    direct: Option<Direct>,
}

impl<'f> Output<'f> {
    pub(crate) fn new(file: &'f File) -> Self {
        Output {
            file,
            buffer: Vec::with_capacity(OUT),
            start: 0,
            direct: None,
        }
    }

    /// What is written from now on goes past the page cache; `direct` is the same file.
    pub(super) fn divert(&mut self, direct: File) -> io::Result<()> {
        self.direct = Some(Direct::new(self.file, direct)?);
        Ok(())
    }

    /// Writes whole blocks.
    pub(crate) fn write(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(direct) = &mut self.direct {
            return direct.write(block * BLOCK_U64, bytes);
        }
        let end = self.start + (self.buffer.len() / BLOCK) as u64;
        let long = bytes.len() >= DIRECT;
        if block != end || long || self.buffer.len() + bytes.len() > OUT {
            self.flush()?;
        }
        if long {
            return self.file.write_all_at(bytes, block * BLOCK_U64);
        }
        if self.buffer.is_empty() {
            self.start = block;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Returns when all can be read from the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(direct) = &mut self.direct {
            return direct.flush();
        }
        if !self.buffer.is_empty() {
            self.file
                .write_all_at(&self.buffer, self.start * BLOCK_U64)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Makes a run of blocks read as zeros.
pub(super) fn punch(file: &File, run: Range<u64>) -> io::Result<()> {
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
