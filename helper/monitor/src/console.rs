//! `console.log`: the guest's serial console, bounded.
//!
//! The file never grows past its limit. When it is full it is replaced by rename with a new file
//! that begins with exactly its last `limit / 2` bytes; the old file is not written again. So a
//! reader that follows an open file loses nothing: at its end, when the path names another
//! inode, it goes on there at offset `limit / 2`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::console_times::ConsoleTimes;
use crate::files;
use crate::launch::now_ms;

/// Smaller limits are raised to this.
const MIN_LIMIT: u64 = 4096;

/// The log of one run.
#[derive(Debug)]
pub(crate) struct ConsoleLog {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
    /// What the file does not have any more.
    dropped: u64,
}

impl ConsoleLog {
    /// Begins a fresh log of at most `limit` bytes (at least 4096; odd limits lose one).
    pub(crate) fn create(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(ConsoleLog {
            path: path.to_owned(),
            file: files::create(path)?,
            length: 0,
            limit: limit.max(MIN_LIMIT) & !1,
            dropped: 0,
        })
    }

    /// Bytes that it had before: those that were cut off, and those that are there.
    fn position(&self) -> u64 {
        self.dropped + self.length
    }

    /// Appends, replacing the file as often as it becomes full.
    pub(crate) fn append(&mut self, mut bytes: &[u8], scratch: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.length >= self.limit {
                self.keep_newer_half(scratch)?;
            }
            let room = usize::try_from(self.limit - self.length).unwrap_or(usize::MAX);
            match self.file.write(&bytes[..bytes.len().min(room)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.length += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep_newer_half(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let temporary = files::temporary(&self.path);
        let replaced = self
            .copy_newer_half(&temporary, scratch)
            .and_then(|(file, length)| {
                fs::rename(&temporary, &self.path)?;
                self.file = file;
                self.dropped += self.length - length;
                self.length = length;
                Ok(())
            });
        if replaced.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        replaced
    }

    fn copy_newer_half(&self, path: &Path, scratch: &mut [u8]) -> io::Result<(File, u64)> {
        let mut newer = files::create(path)?;
        let mut length = 0;
        while length < self.limit / 2 {
            // Zero: somebody cut the file meanwhile.
            let count = self.file.read_at(scratch, self.limit / 2 + length)?;
            if count == 0 {
                break;
            }
            newer.write_all(&scratch[..count])?;
            length += count as u64;
        }
        Ok((newer, length))
    }
}

/// The channel that carries the console, and its log. Nothing is ever written to the channel.
#[derive(Debug)]
pub(crate) struct Console {
    socket: UnixStream,
    kept: Kept,
    panic: PanicWords,
}

/// What is kept of the console.
#[derive(Debug)]
pub(crate) struct Kept {
    log: ConsoleLog,
    /// Without it nobody knows when what was said.
    times: Option<ConsoleTimes>,
}

impl Kept {
    /// Begins a log, and the marks of its times beside it.
    pub(crate) fn create(log: &Path, times: &Path, limit: u64) -> io::Result<Kept> {
        Ok(Kept {
            log: ConsoleLog::create(log, limit)?,
            times: ConsoleTimes::create(times).ok(),
        })
    }

    fn append(&mut self, bytes: &[u8], scratch: &mut [u8], now_ms: u64) -> io::Result<()> {
        let (position, dropped) = (self.log.position(), self.log.dropped);
        if let Some(times) = &mut self.times
            && times.mark(now_ms, position).is_err()
        {
            self.times = None;
        }
        let appended = self.log.append(bytes, scratch);
        if self.log.dropped != dropped
            && let Some(times) = &mut self.times
            && times.cut(self.log.dropped).is_err()
        {
            self.times = None;
        }
        appended
    }
}

/// How a kernel begins to say that it panicked (its kernel/panic.c), at whatever level it logs.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Looks for [`PANIC`] in what comes in pieces.
#[derive(Debug, Default)]
struct PanicWords {
    matched: usize,
    /// Bytes that came since.
    since: Option<usize>,
}

/// More than a kernel says after that.
const LAST_WORDS: usize = 64 * 1024;

impl PanicWords {
    fn seen(&self) -> bool {
        self.since.is_some_and(|since| since < LAST_WORDS)
    }

    fn look(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.since = self.since.map(|since| since.saturating_add(1));
            // Its first letter occurs only once in it, so a mismatch begins anew.
            self.matched = match *byte == PANIC[self.matched] {
                true => self.matched + 1,
                false => usize::from(*byte == PANIC[0]),
            };
            if self.matched == PANIC.len() {
                (self.matched, self.since) = (0, Some(0));
            }
        }
    }
}

/// What became of reading the channel.
#[derive(Debug)]
pub(crate) enum ConsoleRead {
    /// Bytes arrived; the log may have refused them.
    Read(io::Result<()>),
    /// Nothing to read for now.
    Empty,
    /// The other end is closed.
    End,
}

impl Console {
    pub(crate) fn new(socket: UnixStream, kept: Kept) -> Self {
        Console {
            socket,
            kept,
            panic: PanicWords::default(),
        }
    }

    /// The guest's kernel has just said that it panicked. A guest can say so without; it only hurts itself.
    pub(crate) fn panicked(&self) -> bool {
        self.panic.seen()
    }

    /// The log, for the next boot.
    pub(crate) fn into_kept(self) -> Kept {
        self.kept
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Moves some of what is there. The guest's output is read even when
    /// the log cannot take it: a full disk must not stop a guest.
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> ConsoleRead {
        let (input, spare) = scratch.split_at_mut(scratch.len() / 2);
        match (&self.socket).read(input) {
            Ok(0) => ConsoleRead::End,
            Ok(count) => {
                self.panic.look(&input[..count]);
                ConsoleRead::Read(self.kept.append(&input[..count], spare, now_ms()))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => ConsoleRead::Read(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ConsoleRead::Empty,
            Err(_) => ConsoleRead::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn numbered(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|i| format!("{i:07}\n").into_bytes())
            .collect()
    }

    #[test]
    fn the_log_keeps_the_newest_bytes_and_never_exceeds_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut log = ConsoleLog::create(&path, 10_001).unwrap();
        let all = numbered(20_000);
        let mut written = 0;
        for piece in all.chunks(777) {
            log.append(piece, &mut [0; 512]).unwrap();
            written += piece.len();
            let kept = fs::read(&path).unwrap();
            assert!(kept.len() <= 10_000);
            assert!(written < 10_000 || kept.len() >= 5000);
            assert!(all[..written].ends_with(&kept));
        }
    }

    #[test]
    fn a_panic_is_seen_across_pieces_and_only_as_a_whole() {
        let text = b"x KKernel panic - not syncing: why";
        for at in 0..text.len() {
            let mut words = PanicWords::default();
            words.look(&text[..at]);
            words.look(&text[at..]);
            assert!(words.seen(), "{at}");
        }
        let mut words = PanicWords::default();
        words.look(b"Kernel panic - not\nKernel pan");
        assert!(!words.seen());
        // Somebody read an old log there, long ago.
        words.look(b"ic Kernel panic - not syncing: old");
        assert!(words.seen());
        words.look(&numbered(10_000));
        assert!(!words.seen());
    }

    #[test]
    fn a_following_reader_goes_on_where_the_old_file_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut log = ConsoleLog::create(&path, 8192).unwrap();
        let all = numbered(5000);
        let mut reader = File::open(&path).unwrap();
        let mut seen = Vec::new();
        for piece in all.chunks(3000) {
            log.append(piece, &mut [0; 4096]).unwrap();
            reader.read_to_end(&mut seen).unwrap();
            let named = fs::metadata(&path).unwrap().ino();
            if reader.metadata().unwrap().ino() != named {
                reader = File::open(&path).unwrap();
                io::copy(&mut (&reader).take(4096), &mut io::sink()).unwrap();
                reader.read_to_end(&mut seen).unwrap();
            }
        }
        assert_eq!(seen, all);
    }
}
