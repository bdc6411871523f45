//! Bytes that wait for a peer that is slower than we are.

use std::io::{self, Write};

/// Capacity that an empty buffer may keep.
const KEEP: usize = 16 * 1024;

/// A byte queue in one piece, so that a peer that sends single bytes costs single bytes.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes as much as `writer` takes; `Ok(false)` when it takes no more for now. `written`
    /// counts what it took, also when it failed after that.
    pub(crate) fn write_to(
        &mut self,
        writer: &mut impl Write,
        written: &mut usize,
    ) -> io::Result<bool> {
        while !self.is_empty() {
            match writer.write(&self.bytes[self.start..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *written += count;
                    self.start += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.start = 0;
        Ok(true)
    }
}

/// Takes complete lines out of a stream; holds at most `limit` bytes.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    limit: usize,
}

/// A line that is longer than its limit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line is longer than {0} bytes")]
pub(crate) struct LineTooLong(usize);

impl Lines {
    pub(crate) fn new(limit: usize) -> Self {
        Lines {
            bytes: Vec::new(),
            limit,
        }
    }

    /// Calls `each` with every line that `bytes` completes, without its newline.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), LineTooLong> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            self.check(line.len())?;
            if self.bytes.is_empty() {
                each(line);
            } else {
                self.bytes.extend_from_slice(line);
                each(&std::mem::take(&mut self.bytes));
            }
        }
        self.check(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn check(&self, more: usize) -> Result<(), LineTooLong> {
        if self.bytes.len() + more > self.limit {
            return Err(LineTooLong(self.limit));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, then blocks.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.1).min(3);
            self.1 -= count;
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_buffer_keeps_order_across_slow_writers() {
        let mut buffer = Buffer::default();
        let mut slow = Slow(Vec::new(), 7);
        let mut written = 0;
        buffer.push(b"hello ");
        buffer.push(b"world");
        assert!(!buffer.write_to(&mut slow, &mut written).unwrap());
        assert_eq!((written, buffer.len()), (7, 4));
        buffer.push(b"!");
        slow.1 = 100;
        assert!(buffer.write_to(&mut slow, &mut written).unwrap());
        assert_eq!((written, buffer.is_empty()), (12, true));
        assert_eq!(slow.0, b"hello world!");
    }

    #[test]
    fn lines_come_out_whole_whatever_the_pieces() {
        for piece in 1..8 {
            let mut lines = Lines::new(10);
            let mut seen = Vec::new();
            for part in b"one\n\ntwo three\nrest".chunks(piece) {
                lines.push(part, |line| seen.push(line.to_vec())).unwrap();
            }
            assert_eq!(seen, [&b"one"[..], b"", b"two three"]);
        }
    }

    #[test]
    fn a_line_that_never_ends_is_an_error() {
        let mut lines = Lines::new(10);
        lines.push(b"0123456789", |_| {}).unwrap();
        assert_eq!(lines.push(b"0", |_| {}), Err(LineTooLong(10)));
        let mut lines = Lines::new(10);
        assert_eq!(lines.push(b"01234567890\n", |_| {}), Err(LineTooLong(10)));
    }
}
