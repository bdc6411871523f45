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

use crate::files;

/// Smaller limits are raised to this.
const MIN_LIMIT: u64 = 4096;

/// The log of one run.
#[derive(Debug)]
pub(crate) struct ConsoleLog {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
}

impl ConsoleLog {
    /// Begins a fresh log of at most `limit` bytes (at least 4096; odd limits lose one).
    pub(crate) fn create(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(ConsoleLog {
            path: path.to_owned(),
            file: files::create(path)?,
            length: 0,
            limit: limit.max(MIN_LIMIT) & !1,
        })
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
    log: ConsoleLog,
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
    pub(crate) fn new(socket: UnixStream, log: ConsoleLog) -> Self {
        Console { socket, log }
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
            Ok(count) => ConsoleRead::Read(self.log.append(&input[..count], spare)),
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
