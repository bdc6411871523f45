//! Writes past the page cache (O_DIRECT, open(2)), on a thread of their own.
//!
//! An image is written once and is larger than what anybody reads of it soon. Through the page
//! cache each of its pages is allocated, copied to, tracked and written back; past it the disk
//! fetches them itself. Writes are done in the order in which they come.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Bytes of one write.
const SIZE: usize = 1 << 20;
/// What memory and lengths must be multiples of; no disk wants more.
const ALIGN: usize = 4096;
/// Buffers; with their size, the memory that this takes.
const BUFFERS: usize = 4;
/// Shorter writes go through the page cache, which gathers what is near: on its own each would wait
/// for the disk.
const SHORT: usize = 64 << 10;

/// A buffer at an address that the disk can fetch from.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Aligned {
    fn new() -> Self {
        let memory = vec![0; SIZE + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Aligned {
            memory,
            start,
            filled: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.filled]
    }

    /// Takes what there is room for, and returns how much that is.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(SIZE - self.filled);
        self.memory[self.start + self.filled..][..count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }
}

/// Gathers neighbouring writes, and passes them on.
pub(super) struct Direct {
    /// Byte of the image that the first one in `buffer` belongs to.
    offset: u64,
    buffer: Aligned,
    /// Buffers that the thread has.
    away: usize,
    given: Option<SyncSender<(u64, Aligned)>>,
    written: Receiver<io::Result<Aligned>>,
    spare: Vec<Aligned>,
    thread: Option<JoinHandle<()>>,
}

impl Direct {
    /// `direct` is the same file as `image`, opened with O_DIRECT.
    ///
    /// # Errors
    /// When there can be no more threads or descriptors.
    pub(super) fn new(image: &File, direct: File) -> io::Result<Self> {
        let image = image.try_clone()?;
        let (given, orders) = sync_channel(BUFFERS);
        let (tell, written) = channel();
        let thread = std::thread::Builder::new()
            .name("image".to_owned())
            .spawn(move || {
                for (offset, buffer) in orders {
                    let result = write(&image, &direct, offset, &buffer);
                    if tell.send(result.map(|()| buffer)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Direct {
            offset: 0,
            buffer: Aligned::new(),
            away: 0,
            given: Some(given),
            written,
            spare: Vec::new(),
            thread: Some(thread),
        })
    }

    /// Writes whole blocks, sooner or later.
    ///
    /// # Errors
    /// Those of what was written before.
    pub(super) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        if offset != self.offset + self.buffer.filled as u64 {
            self.submit()?;
            self.offset = offset;
        }
        while !bytes.is_empty() {
            let count = self.buffer.fill(bytes);
            bytes = &bytes[count..];
            offset += count as u64;
            if self.buffer.filled == SIZE {
                self.submit()?;
                self.offset = offset;
            }
        }
        Ok(())
    }

    /// Returns when all is written; it may still have to be synced.
    ///
    /// # Errors
    /// Those of any write before.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.submit()?;
        while self.away > 0 {
            let buffer = self.back()?;
            self.spare.push(buffer);
        }
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.buffer.filled == 0 {
            return Ok(());
        }
        let next = match self.spare.pop() {
            Some(spare) => spare,
            None if self.away + 1 < BUFFERS => Aligned::new(),
            None => self.back()?,
        };
        let full = std::mem::replace(&mut self.buffer, next);
        let given = self
            .given
            .as_ref()
            .map(|given| given.send((self.offset, full)));
        if !matches!(given, Some(Ok(()))) {
            return Err(ended());
        }
        self.away += 1;
        Ok(())
    }

    fn back(&mut self) -> io::Result<Aligned> {
        let mut buffer = self.written.recv().map_err(|_| ended())??;
        self.away -= 1;
        buffer.filled = 0;
        Ok(buffer)
    }
}

impl Drop for Direct {
    /// Nothing writes to the image any more when it is dropped.
    fn drop(&mut self) {
        self.given = None;
        if let Some(thread) = self.thread.take() {
            // Its panic showed in a write or a flush: without its answer those fail.
            let _ = thread.join();
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the writing thread ended early")
}

/// Through the page cache when it has to be: what a file system refuses to do directly, it does in
/// its own way, and an error of the disk comes again there or with the sync.
fn write(image: &File, direct: &File, offset: u64, buffer: &Aligned) -> io::Result<()> {
    let bytes = buffer.bytes();
    let aligned = bytes.len().is_multiple_of(ALIGN) && offset.is_multiple_of(ALIGN as u64);
    if bytes.len() >= SHORT && aligned && direct.write_all_at(bytes, offset).is_ok() {
        return Ok(());
    }
    image.write_all_at(bytes, offset)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    /// Writes of many lengths, some of them over others; returns what the image has, and what it
    /// should have.
    fn written(image: &File, direct: File) -> io::Result<(Vec<u8>, Vec<u8>)> {
        const BLOCK: usize = 4096;
        let mut expected = vec![0; 12 << 20];
        let mut out = Direct::new(image, direct)?;
        let mut at = 0;
        for (number, blocks) in [1, 2, 700, 16, 15, 256, 1, 900, 3, 300]
            .into_iter()
            .enumerate()
        {
            let bytes = vec![number as u8 + 1; blocks * BLOCK];
            out.write((at * BLOCK) as u64, &bytes)?;
            expected[at * BLOCK..][..bytes.len()].copy_from_slice(&bytes);
            at += blocks;
            if number % 3 == 2 {
                // A hole, and then back over the end of what may still be on its way.
                at = if number == 5 { at + 40 } else { at - 20 };
            }
        }
        out.flush()?;
        let mut found = vec![0; expected.len()];
        image.set_len(found.len() as u64)?;
        image.read_exact_at(&mut found, 0)?;
        Ok((found, expected))
    }

    #[test]
    fn writes_are_done_in_their_order() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let mut options = File::options();
        options.write(true).custom_flags(nix::libc::O_DIRECT);
        // Where the file system knows no direct writes there is nothing but the other test.
        let direct = options.open(image.path());
        let direct = direct.or_else(|_| File::options().write(true).open(image.path()));
        let (found, expected) = written(image.as_file(), direct.unwrap()).unwrap();
        assert!(found == expected);
    }

    #[test]
    fn what_cannot_be_written_directly_is_written_all_the_same() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let refuses = File::open(image.path()).unwrap();
        let (found, expected) = written(image.as_file(), refuses).unwrap();
        assert!(found == expected);
    }

    #[test]
    fn an_error_comes_with_the_next_flush() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let refuses = || File::open(image.path()).unwrap();
        let mut out = Direct::new(&refuses(), refuses()).unwrap();
        out.write(0, &[1; 4096]).unwrap();
        out.flush().unwrap_err();
    }
}
