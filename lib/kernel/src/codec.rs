//! The compressions that kernels, modules and packages come in, told apart by their magic.

use std::io::{self, Read};

use crate::lz4::Lz4Legacy;

/// What a compressed stream calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// With its BCJ filters.
    Xz,
    /// RFC 8878.
    Zstd,
    /// The format before xz.
    Lzma,
    /// LZ4's legacy frames, as `lz4 -l` and the kernel make them.
    Lz4,
    /// LZ4's frames; only recognised.
    Lz4Frame,
    /// Only recognised.
    Bzip2,
    /// Only recognised.
    Lzo,
}

impl Compression {
    /// By the first bytes of a stream.
    pub(crate) fn detect(start: &[u8]) -> Option<Self> {
        // Documentation/arch/x86/boot.rst, payload_offset, and the formats' own documents.
        [
            (Compression::Gzip, &b"\x1f\x8b"[..]),
            (Compression::Xz, b"\xfd7zXZ\0"),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd"),
            (Compression::Lz4, b"\x02\x21\x4c\x18"),
            (Compression::Lz4Frame, b"\x04\x22\x4d\x18"),
            (Compression::Bzip2, b"BZh"),
            (Compression::Lzo, b"\x89LZO"),
            (Compression::Lzma, b"\x5d\0\0"),
        ]
        .into_iter()
        .find(|(_, magic)| start.starts_with(magic))
        .map(|(compression, _)| compression)
    }

    /// A reader of the first stream in `input`, or nothing when the compression is only
    /// recognised. What follows the stream is not looked at.
    pub(crate) fn decoder<'a, R: Read + 'a>(
        self,
        input: R,
    ) -> io::Result<Option<Box<dyn Read + 'a>>> {
        Ok(Some(match self {
            Compression::Gzip => Box::new(flate2::read::GzDecoder::new(input)),
            Compression::Xz => Box::new(liblzma::read::XzDecoder::new(input)),
            Compression::Lzma => {
                let stream = liblzma::stream::Stream::new_lzma_decoder(1 << 30)?;
                Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(input)?.single_frame();
                decoder.window_log_max(30)?;
                Box::new(decoder)
            }
            Compression::Lz4 => Box::new(Lz4Legacy::new(input)?),
            Compression::Lz4Frame | Compression::Bzip2 | Compression::Lzo => return Ok(None),
        }))
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Lzma => "lzma",
            Compression::Lz4 => "lz4",
            Compression::Lz4Frame => "lz4 (frame format)",
            Compression::Bzip2 => "bzip2",
            Compression::Lzo => "lzo",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn every_supported_compression_round_trips_with_trailing_bytes() {
        let plain: Vec<u8> = (0..200_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(&plain).unwrap();
        for (compression, mut bytes) in [
            (Compression::Gzip, gzip.finish().unwrap()),
            (Compression::Xz, xz.finish().unwrap()),
            (Compression::Lzma, lzma.finish().unwrap()),
            (Compression::Zstd, zstd::encode_all(&plain[..], 1).unwrap()),
        ] {
            assert_eq!(Compression::detect(&bytes), Some(compression));
            // The kernel's build appends the uncompressed size.
            bytes.extend(u32::try_from(plain.len()).unwrap().to_le_bytes());
            let mut read = Vec::new();
            let mut decoder = compression.decoder(&bytes[..]).unwrap().unwrap();
            decoder.read_to_end(&mut read).unwrap();
            assert!(read == plain, "{compression}");
        }
    }
}
