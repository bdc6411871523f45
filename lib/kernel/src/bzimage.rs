//! The header of a bzImage (Documentation/arch/x86/boot.rst): where its payload is and what
//! release it is.

use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::codec::Compression;

/// Bytes to read before [`BzImage::parse`]: the boot sector, the header and the release text.
pub(crate) const START: usize = 64 << 10;
const MAGIC_AT: usize = 0x202;
/// The payload's place is there since protocol 2.08 (Linux 2.6.26).
const OLDEST: u16 = 0x208;
const RELEASE_BYTES: usize = 128;
/// More than any kernel; keeps a hostile payload from filling the disk.
const LARGEST: u64 = 1 << 30;

/// Where the compressed kernel is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BzImage {
    offset: u64,
    length: u64,
    /// `uname -r`, when the header has it.
    pub(crate) release: Option<String>,
}

/// Why there is no kernel to be had from it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BzImageFault {
    #[error("its boot protocol is {}.{:02}, the oldest with a known payload is 2.08", .0 >> 8, .0 & 0xff)]
    Protocol(u16),
    #[error("its header is cut short")]
    CutShort,
    #[error("its payload is {length} bytes at {offset}, beyond the end of the file")]
    Beyond { offset: u64, length: u64 },
    #[error("its payload is compressed with {0}")]
    Compression(Compression),
    #[error("its payload is compressed in an unknown way (it starts with {0})")]
    Unknown(String),
    #[error("its payload does not decompress")]
    Payload(#[source] io::Error),
}

/// The file starts like a bzImage.
pub(crate) fn is_bzimage(start: &[u8]) -> bool {
    start.get(MAGIC_AT..MAGIC_AT + 4) == Some(b"HdrS")
}

impl BzImage {
    /// From the first [`START`] bytes of a file of `size` bytes.
    pub(crate) fn parse(start: &[u8], size: u64) -> Result<Self, BzImageFault> {
        let half = |at| bytes(start, at).map(u16::from_le_bytes);
        let word = |at| bytes(start, at).map(u32::from_le_bytes);
        let protocol = half(0x206)?;
        if protocol < OLDEST {
            return Err(BzImageFault::Protocol(protocol));
        }
        let [sectors] = bytes::<1>(start, 0x1f1)?;
        // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
        let sectors = if sectors == 0 { 4 } else { u64::from(sectors) };
        let offset = (sectors + 1) * 512 + u64::from(word(0x248)?);
        let length = u64::from(word(0x24c)?);
        if length == 0 || offset + length > size {
            return Err(BzImageFault::Beyond { offset, length });
        }
        let release = match half(0x20e)? {
            0 => None,
            pointer => release_at(start, usize::from(pointer) + 512),
        };
        Ok(BzImage {
            offset,
            length,
            release,
        })
    }

    /// Writes the uncompressed kernel to `output`; returns its length.
    pub(crate) fn extract(
        &self,
        image: &mut (impl Read + Seek),
        output: &mut impl Write,
    ) -> Result<u64, BzImageFault> {
        let mut magic = [0; 8];
        image
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| image.read_exact(&mut magic))
            .and_then(|()| image.seek(SeekFrom::Start(self.offset)))
            .map_err(BzImageFault::Payload)?;
        let Some(compression) = Compression::detect(&magic) else {
            let hex: Vec<String> = magic.iter().map(|b| format!("{b:02x}")).collect();
            return Err(BzImageFault::Unknown(hex.join(" ")));
        };
        // The build appends the uncompressed size to a format that does not record it; LZ4 alone
        // has no end mark and would take it for a block (scripts/Makefile.lib, size_append).
        let length = match compression {
            Compression::Lz4 => self.length.saturating_sub(4),
            _ => self.length,
        };
        let decoder = compression
            .decoder(image.take(length))
            .map_err(BzImageFault::Payload)?;
        let Some(decoder) = decoder else {
            return Err(BzImageFault::Compression(compression));
        };
        let copied = io::copy(&mut decoder.take(LARGEST), output).map_err(BzImageFault::Payload)?;
        if copied == LARGEST {
            let reason = io::Error::other("it is larger than a gibibyte");
            return Err(BzImageFault::Payload(reason));
        }
        Ok(copied)
    }
}

fn bytes<const N: usize>(start: &[u8], at: usize) -> Result<[u8; N], BzImageFault> {
    start
        .get(at..at + N)
        .and_then(|slice| slice.try_into().ok())
        .ok_or(BzImageFault::CutShort)
}

/// The first word of the NUL-terminated version text.
fn release_at(start: &[u8], at: usize) -> Option<String> {
    let text = start.get(at..)?;
    first_word(&text[..text.len().min(RELEASE_BYTES)])
}

/// A release string at the beginning of `text`, up to a space or NUL.
pub(crate) fn first_word(text: &[u8]) -> Option<String> {
    let word = text.split(|b| matches!(b, 0 | b' ')).next()?;
    let valid = word.first().is_some_and(u8::is_ascii_digit)
        && word
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(b));
    valid.then(|| String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A bzImage of four setup sectors around a payload.
    pub(crate) fn image(payload: &[u8], release: &str) -> Vec<u8> {
        let mut image = vec![0; 5 * 512];
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x20e..0x210].copy_from_slice(&0x200u16.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image[0x400..0x400 + release.len()].copy_from_slice(release.as_bytes());
        image.extend(payload);
        image
    }

    fn extract(image: &[u8]) -> Result<Vec<u8>, BzImageFault> {
        let parsed = BzImage::parse(image, image.len() as u64)?;
        let mut output = Vec::new();
        parsed.extract(&mut io::Cursor::new(image), &mut output)?;
        Ok(output)
    }

    #[test]
    fn the_header_is_read() {
        let image = image(b"payload", "6.1.0-49-cloud-amd64 (debian-kernel) #1");
        assert!(is_bzimage(&image));
        let parsed = BzImage::parse(&image, image.len() as u64).unwrap();
        assert_eq!(parsed.release.as_deref(), Some("6.1.0-49-cloud-amd64"));
        assert_eq!((parsed.offset, parsed.length), (2560, 7));
    }

    #[test]
    fn payloads_decompress() {
        let kernel = vec![7; 100_000];
        let mut lz4 = crate::lz4::tests::compress(&kernel);
        lz4.extend(100_000u32.to_le_bytes());
        for payload in [zstd::encode_all(&kernel[..], 3).unwrap(), lz4] {
            assert!(extract(&image(&payload, "6.1")).unwrap() == kernel);
        }
    }

    #[test]
    fn faults_are_named() {
        let mut old = image(b"x", "");
        old[0x206..0x208].copy_from_slice(&0x203u16.to_le_bytes());
        let good = zstd::encode_all(&[1u8; 5000][..], 3).unwrap();
        for (image, expected) in [
            (old, "its boot protocol is 2.03"),
            (
                image(b"BZh91AY&SY", "6.1"),
                "its payload is compressed with bzip2",
            ),
            (
                image(b"\x89LZO\0\r\n\x1a", "6.1"),
                "its payload is compressed with lzo",
            ),
            (
                image(b"whatever", "6.1"),
                "in an unknown way (it starts with 77 68 61 74",
            ),
            (
                image(&good[..good.len() / 2], "6.1"),
                "its payload does not decompress",
            ),
            (
                image(&good, "6.1")[..2570].to_vec(),
                "beyond the end of the file",
            ),
            (
                image(&good, "6.1")[..0x210].to_vec(),
                "its header is cut short",
            ),
        ] {
            let error = extract(&image).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
