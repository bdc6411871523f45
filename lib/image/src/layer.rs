//! A layer's way from its blob to tar: decompression, and the diff-id check at its end.
//!
//! The compression is told by the first bytes, as other tools do: media types are wrong often.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use lib_model::{Digest, Step};
use sha2::{Digest as _, Sha256};
use zstd::stream::read::Decoder;

use crate::limits::Unpacked;
use crate::{Error, Limits};

const BUFFER: usize = 256 << 10;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Unsupported(&'static str),
}

/// Recognises a compression by its magic number.
pub(crate) fn compression(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // RFC 8878 §3.1: a frame, or a skippable frame before one.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Unsupported("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Compression::Unsupported("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Unsupported("lz4"),
        _ => Compression::None,
    }
}

/// Decompresses `raw`, whichever of the supported compressions it has.
///
/// # Errors
/// [`Error::Compression`] inside the `io::Error` for one that is not supported.
pub(crate) fn decompress<R: Read>(raw: R, what: &str) -> io::Result<Decompressed<R>> {
    let mut buffered = BufReader::with_capacity(BUFFER, raw);
    let start = peek(&mut buffered)?;
    Ok(match compression(&start) {
        Compression::None => Decompressed::None(buffered),
        Compression::Gzip => Decompressed::Gzip(Box::new(MultiGzDecoder::new(buffered))),
        Compression::Zstd => Decompressed::Zstd(Decoder::with_buffer(buffered)?),
        Compression::Unsupported(format) => {
            let what = what.to_owned();
            return Err(io::Error::other(Error::Compression { what, format }));
        }
    })
}

/// What [`decompress`] yields; it can be read on any thread where its source can.
pub(crate) enum Decompressed<R> {
    None(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Decoder<'static, BufReader<R>>),
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompressed::None(reader) => reader.read(buffer),
            Decompressed::Gzip(reader) => reader.read(buffer),
            Decompressed::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// The first bytes, at most 8, without consuming them.
fn peek(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    loop {
        match reader.fill_buf() {
            Ok(bytes) => return Ok(bytes[..bytes.len().min(8)].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Decompresses a layer and stops it at the limits.
///
/// # Errors
/// As [`decompress`]; [`Error::Limit`] inside the `io::Error` while it is read.
pub(crate) fn unpack<R: Read>(
    raw: R,
    what: &str,
    unpacked: Arc<Unpacked>,
    limits: &Limits,
) -> io::Result<Metered<R>> {
    let packed = Arc::new(AtomicU64::new(0));
    let counting = Counted {
        inner: raw,
        count: packed.clone(),
    };
    Ok(Metered {
        inner: decompress(counting, what)?,
        packed,
        own: 0,
        unpacked,
        limits: limits.clone(),
        what: what.to_owned(),
    })
}

pub(crate) struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// What comes out of a decompressor, within the limits.
pub(crate) struct Metered<R> {
    inner: Decompressed<Counted<R>>,
    packed: Arc<AtomicU64>,
    own: u64,
    unpacked: Arc<Unpacked>,
    limits: Limits,
    what: String,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)? as u64;
        self.own += count;
        let so_far = (self.packed.load(Ordering::Relaxed), self.own);
        self.unpacked
            .count(&self.what, count, so_far, &self.limits)
            .map_err(io::Error::other)?;
        Ok(count as usize)
    }
}

/// Stops a stream that does not end.
pub(crate) struct Bounded<'a, R> {
    pub(crate) inner: R,
    pub(crate) read: u64,
    pub(crate) limits: &'a Limits,
    pub(crate) what: &'a str,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        self.limits
            .layer_bytes(self.what, self.read)
            .map_err(io::Error::other)?;
        Ok(count)
    }
}

/// Fails at the end of the stream when its digest is not the layer's diff-id.
pub(crate) struct DiffIdReader<R> {
    inner: R,
    hasher: Option<Sha256>,
    /// Bytes of the inner reader's buffer that are in the hash already.
    hashed: usize,
    layer: Digest,
    expected: Digest,
}

impl<R: BufRead> DiffIdReader<R> {
    pub(crate) fn new(inner: R, layer: Digest, expected: Digest) -> Self {
        DiffIdReader {
            inner,
            hasher: Some(Sha256::new()),
            hashed: 0,
            layer,
            expected,
        }
    }
}

impl<R: BufRead> BufRead for DiffIdReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.inner.fill_buf()?;
        if !bytes.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes[self.hashed..]);
                self.hashed = bytes.len();
            }
        } else if let Some(hasher) = self.hasher.take() {
            let actual = Digest::from_sha256(hasher.finalize().into());
            if actual != self.expected {
                return Err(io::Error::other(Error::DiffId {
                    layer: self.layer.clone(),
                    expected: self.expected.clone(),
                    actual,
                }));
            }
        }
        Ok(bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.hashed = self.hashed.saturating_sub(amount);
        self.inner.consume(amount);
    }
}

impl<R: BufRead> Read for DiffIdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Reports what was read to a progress step.
pub(crate) struct CountingReader<'a, R> {
    pub(crate) inner: R,
    pub(crate) step: &'a dyn Step,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.step.advance(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(raw: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(raw, "x")?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_compression_is_told_by_its_content() {
        let members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&members).unwrap(), b"one two");
        let frames = [
            zstd::encode_all(&b"one "[..], 1).unwrap(),
            b"\x50\x2a\x4d\x18\x02\x00\x00\x00xx".to_vec(),
            zstd::encode_all(&b"two"[..], 1).unwrap(),
        ]
        .concat();
        assert_eq!(read(&frames).unwrap(), b"one two");
        assert_eq!(read(b"plain").unwrap(), b"plain");
        assert_eq!(read(b"").unwrap(), b"");
        for (raw, format) in [(&b"\xfd7zXZ\0abc"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
            let error = read(raw).unwrap_err().downcast::<Error>().unwrap();
            assert!(matches!(error, Error::Compression { format: f, .. } if f == format));
        }
        assert!(read(&members[..members.len() - 9]).is_err());
        assert!(read(&frames[..frames.len() - 1]).is_err());
    }

    #[test]
    fn a_bomb_is_stopped_by_its_ratio_and_by_its_size() {
        let stopped = |limits: &Limits| {
            let free = Limits::RATIO_FREE + (4 << 20);
            let packed = zstd::encode_all(io::repeat(0).take(free), 1).unwrap();
            let unpacked = Arc::new(Unpacked::default());
            let mut reader = unpack(&packed[..], "x", unpacked, limits).unwrap();
            let error = io::copy(&mut reader, &mut io::sink()).err();
            error.map(|error| (error.downcast::<Error>().unwrap().to_string(), reader.own))
        };
        let (ratio, _) = stopped(&Limits::default()).unwrap();
        assert!(
            ratio.contains("unpacked bytes for each compressed one, the limit is 200"),
            "{ratio}"
        );
        let small = Limits {
            unpacked_bytes: 1 << 20,
            ..Limits::default()
        };
        let (size, own) = stopped(&small).unwrap();
        assert!(
            size.contains("unpacked bytes, the limit is 1048576"),
            "{size}"
        );
        assert!(own < 3 << 20, "it went on to {own}");
        let ratio = 1_000_000;
        assert!(
            stopped(&Limits {
                ratio,
                ..Limits::default()
            })
            .is_none()
        );
    }

    #[test]
    fn the_diff_id_is_checked_at_the_end_and_once() {
        let content = b"layer";
        let right = Digest::from_sha256(Sha256::digest(content).into());
        let layer = Digest::from_sha256([0; 32]);
        let mut reader = DiffIdReader::new(&content[..], layer.clone(), right);
        let mut out = Vec::new();
        reader.read_to_end(&mut out).unwrap();
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);

        let mut reader = DiffIdReader::new(&content[..], layer.clone(), layer);
        let error = reader
            .read_to_end(&mut out)
            .unwrap_err()
            .downcast::<Error>()
            .unwrap();
        assert!(matches!(error, Error::DiffId { .. }), "{error}");
    }
}
