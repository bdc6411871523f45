//! Large files past the page cache (open(2), `O_DIRECT`), for a guest: the host caches its disk already, and a
//! page of the guest's own cache costs an emulated processor more than all the rest of a copy.
//!
//! What a file system refuses, and what does not fill a block, goes through the cache.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Smaller files are often read next, and then the cache is worth its price.
const LARGE: u64 = 16 << 20;
/// Of addresses, offsets and lengths; no disk of a guest has larger blocks.
const BLOCK: usize = 4096;
/// Written at once: what the kernel gives to a disk as one request (queue-sysfs, `max_sectors_kb`), so that the host writes
/// with one processor while the other emulates the guest's.
const PIECE: usize = 1 << 20;
/// Read at once: some requests, for nothing else happens until they are answered.
const READ: usize = 2 << 20;
/// A huge page: one piece of memory for the disk's driver, and not hundreds (admin-guide/mm/transhuge.rst).
const HUGE_PAGE: usize = 2 << 20;

/// A buffer at the address of a block, in a huge page where the kernel gives one.
#[derive(Debug)]
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Aligned {
    fn new(size: usize) -> Aligned {
        // What is not touched takes no memory.
        let bytes = vec![0; size + HUGE_PAGE];
        let start = bytes.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
        Aligned { bytes, start, size }
    }

    fn piece(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }
}

/// A new file that is written from its beginning on.
#[derive(Debug)]
pub(crate) struct Target {
    file: File,
    /// None when everything goes through the cache.
    buffer: Option<Aligned>,
    /// Bytes in the buffer.
    held: usize,
}

impl Target {
    /// `past_cache`: when the file is to be large.
    pub(crate) fn new(file: File, size: u64, past_cache: bool) -> Target {
        let direct = past_cache && size >= LARGE && set_direct(&file, true);
        Target {
            file,
            buffer: direct.then(|| Aligned::new(PIECE)),
            held: 0,
        }
    }

    /// Where the next bytes belong, for [`Target::filled`]; none when they are to be written with [`Target::write`].
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.buffer.as_mut()?.piece()[self.held..])
    }

    /// Takes bytes that are in the room already.
    pub(crate) fn filled(&mut self, count: usize) -> io::Result<()> {
        self.held += count;
        match self.held {
            PIECE => self.flush(),
            _ => Ok(()),
        }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(room) = self.room()
            && !bytes.is_empty()
        {
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.filled(count)?;
            bytes = &bytes[count..];
        }
        self.file.write_all(bytes)
    }

    /// Leaves a hole up to `offset`, which is behind everything that was written.
    pub(crate) fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        self.flush()?;
        if !offset.is_multiple_of(BLOCK as u64) {
            self.use_cache();
        }
        self.file.seek(SeekFrom::Start(offset)).map(drop)
    }

    /// The file with everything in it.
    pub(crate) fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        self.use_cache();
        Ok(self.file)
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(mut buffer) = self.buffer.take() else {
            return Ok(());
        };
        let held = std::mem::take(&mut self.held);
        let whole = held - held % BLOCK;
        let mut at = 0;
        while at < whole && at.is_multiple_of(BLOCK) {
            match self.file.write(&buffer.piece()[at..whole]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if refused(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if at == held {
            self.buffer = Some(buffer);
            return Ok(());
        }
        // From here on it is not at a block, or was refused.
        set_direct(&self.file, false);
        self.file.write_all(&buffer.piece()[at..held])
    }

    fn use_cache(&mut self) {
        if self.buffer.take().is_some() {
            set_direct(&self.file, false);
        }
    }
}

/// A file that is read from where it is.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    file: &'a mut File,
    buffer: Aligned,
    direct: bool,
}

impl<'a> Source<'a> {
    /// None for what is better read through the cache.
    pub(crate) fn new(file: &'a mut File, left: u64) -> Option<Source<'a>> {
        let direct = left >= LARGE && set_direct(file, true);
        direct.then(|| Source {
            file,
            buffer: Aligned::new(READ),
            direct,
        })
    }

    /// The next bytes; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<&[u8]> {
        let count = loop {
            match self.file.read(self.buffer.piece()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && refused(&error) => {
                    self.direct = false;
                    set_direct(self.file, false);
                }
                other => break other?,
            }
        };
        Ok(&self.buffer.piece()[..count])
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        if self.direct {
            set_direct(self.file, false);
        }
    }
}

fn refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EINVAL as i32)
}

/// Whether the file system can do so.
fn set_direct(file: &File, on: bool) -> bool {
    let Ok(flags) = fcntl(file, FcntlArg::F_GETFL) else {
        return false;
    };
    let mut flags = OFlag::from_bits_retain(flags);
    flags.set(OFlag::O_DIRECT, on);
    fcntl(file, FcntlArg::F_SETFL(flags)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In memory, where this may be refused, and beside the test program, where it mostly is not.
    fn directories() -> Vec<tempfile::TempDir> {
        let program = std::env::current_exe().unwrap();
        ["/dev/shm".as_ref(), program.parent().unwrap()]
            .map(|place| tempfile::tempdir_in(place).unwrap())
            .into()
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 3 + at / 4099) as u8).collect()
    }

    fn flags(file: &File) -> OFlag {
        OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap())
    }

    #[test]
    fn whatever_the_pieces_and_holes_the_file_is_what_was_written() {
        let content = bytes(3 * PIECE + 77);
        for directory in directories() {
            for (piece, hole) in [
                (1000, 0),
                (PIECE, BLOCK),
                (128 * 1024, 5),
                (content.len(), 1),
            ] {
                let path = directory.path().join("file");
                let file = File::create(&path).unwrap();
                let mut target = Target::new(file, LARGE, true);
                let mut expected = Vec::new();
                for (number, piece) in content.chunks(piece).enumerate() {
                    if hole > 0 && number % 3 == 1 {
                        expected.resize(expected.len() + hole, 0);
                        target.skip_to(expected.len() as u64).unwrap();
                    }
                    target.write(piece).unwrap();
                    expected.extend_from_slice(piece);
                }
                let file = target.finish().unwrap();
                assert!(!flags(&file).contains(OFlag::O_DIRECT));
                assert!(std::fs::read(&path).unwrap() == expected, "{piece} {hole}");
            }
        }
    }

    #[test]
    fn a_large_file_is_read_from_where_it_is_to_its_end() {
        let content = bytes(LARGE as usize + 3 * BLOCK + 5);
        for directory in directories() {
            let path = directory.path().join("file");
            std::fs::write(&path, &content).unwrap();
            let mut file = File::open(&path).unwrap();
            for begin in [0, BLOCK, 3] {
                file.seek(SeekFrom::Start(begin as u64)).unwrap();
                let left = (content.len() - begin) as u64;
                let mut read = Vec::new();
                // Without O_DIRECT it is the caller who reads.
                if let Some(mut source) = Source::new(&mut file, left) {
                    while let piece @ [_, ..] = source.next().unwrap() {
                        read.extend_from_slice(piece);
                    }
                    assert!(read == content[begin..], "from {begin}");
                }
                assert!(!flags(&file).contains(OFlag::O_DIRECT));
            }
        }
    }

    #[test]
    fn small_files_and_those_of_hosts_are_cached() {
        for (size, past_cache) in [(LARGE - 1, true), (LARGE, false)] {
            let target = Target::new(tempfile::tempfile().unwrap(), size, past_cache);
            assert!(target.buffer.is_none());
        }
    }
}
