//! Reading on another thread, some buffers ahead of whoever needs the bytes.
//!
//! Decompression and what is done with its output take about as long, and a layer is one stream:
//! this is how two processors work on it.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope};

/// Bytes of one buffer: as much as fits into a processor's own cache.
const BUFFER: usize = 256 << 10;
/// Buffers between the threads; with it, the memory that this takes.
const BUFFERS: usize = 8;

type Filled = io::Result<Vec<u8>>;

/// What `reader` yields, read on a thread of `scope`. Dropped before its end, the thread stops
/// with the buffer that it is at.
///
/// # Errors
/// When there can be no more threads.
pub(crate) fn ahead<'s>(
    scope: &'s Scope<'s, '_>,
    reader: impl Read + Send + 's,
) -> io::Result<Ahead> {
    let (filled, buffers) = sync_channel(BUFFERS);
    let (used, empty) = channel();
    Builder::new()
        .name("unpack".to_owned())
        .spawn_scoped(scope, move || fill(reader, &filled, &empty))?;
    Ok(Ahead {
        buffers,
        used,
        buffer: Vec::new(),
        taken: 0,
        end: false,
    })
}

/// Ends with an empty buffer, an error, or when nobody takes the next one.
fn fill(mut reader: impl Read, filled: &SyncSender<Filled>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        let result = whole(&mut reader, &mut buffer);
        let last = buffer.is_empty() || result.is_err();
        if filled.send(result.map(|()| buffer)).is_err() || last {
            return;
        }
    }
}

/// Fills the buffer, which is empty only at the end of the stream.
fn whole(reader: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(BUFFER, 0);
    let mut count = 0;
    while count < BUFFER {
        match reader.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What came before an error does not matter: the stream is useless.
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(count);
    Ok(())
}

/// The near end of [`ahead`].
pub(crate) struct Ahead {
    buffers: Receiver<Filled>,
    used: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were read.
    taken: usize,
    end: bool,
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.buffer.len() && !self.end {
            self.next()?;
        }
        Ok(&self.buffer[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.taken = (self.taken + amount).min(self.buffer.len());
    }
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let rest = self.fill_buf()?;
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Ahead {
    fn next(&mut self) -> io::Result<()> {
        let used = std::mem::take(&mut self.buffer);
        self.taken = 0;
        if used.capacity() > 0 {
            // The thread needs none when it is at its end.
            let _ = self.used.send(used);
        }
        let next = self.buffers.recv();
        // Its panic goes on when the scope ends; it must not look like the end of the stream.
        let next = next.unwrap_or_else(|_| Err(io::Error::other("the reading thread ended early")));
        self.end = next.as_ref().map_or(true, Vec::is_empty);
        self.buffer = next?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::scope;

    use super::*;

    /// Yields few bytes at a time, and fails at its end or not.
    struct Source<'a> {
        left: usize,
        fails: bool,
        reads: &'a AtomicUsize,
    }

    impl Read for Source<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            if self.left == 0 && self.fails {
                return Err(io::Error::other("torn"));
            }
            let count = into.len().min(self.left).min(70_001);
            for (index, byte) in into[..count].iter_mut().enumerate() {
                *byte = (self.left - index) as u8;
            }
            self.left -= count;
            Ok(count)
        }
    }

    fn source(left: usize, fails: bool, reads: &AtomicUsize) -> Source<'_> {
        Source { left, fails, reads }
    }

    #[test]
    fn the_bytes_are_those_of_the_reader() {
        for length in [0, 1, BUFFER - 1, BUFFER, 3 * BUFFER + 7, 40 * BUFFER] {
            let reads = AtomicUsize::new(0);
            let mut expected = Vec::new();
            source(length, false, &reads)
                .read_to_end(&mut expected)
                .unwrap();
            scope(|scope| {
                let mut ahead = ahead(scope, source(length, false, &reads)).unwrap();
                let mut all = Vec::new();
                let mut piece = vec![0; 100_003];
                loop {
                    let count = ahead.read(&mut piece).unwrap();
                    if count == 0 {
                        break;
                    }
                    all.extend_from_slice(&piece[..count]);
                }
                assert!(all == expected, "{length} bytes");
                assert_eq!(ahead.read(&mut piece).unwrap(), 0);
            });
        }
    }

    #[test]
    fn an_error_comes_once_and_is_never_the_end() {
        let reads = AtomicUsize::new(0);
        scope(|scope| {
            let mut ahead = ahead(scope, source(2 * BUFFER, true, &reads)).unwrap();
            let error = io::copy(&mut ahead, &mut io::sink()).unwrap_err();
            assert_eq!(error.to_string(), "torn");
        });
    }

    #[test]
    fn a_panic_is_no_end_of_the_stream() {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("a decoder's bug")
            }
        }
        let caught = std::panic::catch_unwind(|| {
            scope(|scope| {
                let read = ahead(scope, Panics).unwrap().read(&mut [0; 8]);
                assert!(read.unwrap_err().to_string().contains("ended early"));
            });
        });
        assert!(caught.is_err(), "the panic goes on");
    }

    #[test]
    fn a_reader_that_nobody_wants_stops() {
        let reads = AtomicUsize::new(0);
        // The scope ends: that is what is tested.
        scope(|scope| {
            let mut ahead = ahead(scope, source(usize::MAX, false, &reads)).unwrap();
            ahead.read_exact(&mut [0; 3 * 70_001]).unwrap();
            drop(ahead);
        });
        // Each buffer takes four reads: those on their way, the one taken, those at both ends.
        assert!(reads.load(Ordering::SeqCst) <= 4 * (BUFFERS + 3));
    }
}
