//! Length-prefixed frames inside one stream: `kind: u8`, `length: u32` little-endian, payload.

use std::io::{self, Read, Write};

/// Largest payload of one frame, in bytes; a longer one is a protocol error.
pub const MAX_PAYLOAD: usize = 1 << 20;

const HEADER: usize = 5;

/// One frame: what it is, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Meaning of the payload; see [`crate::agent::kind`].
    pub kind: u8,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// A frame that says it is longer than [`MAX_PAYLOAD`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a frame of kind {kind} announces {length} bytes, the limit is {MAX_PAYLOAD}")]
pub struct FrameTooLong {
    /// The announced kind.
    pub kind: u8,
    /// The announced length in bytes.
    pub length: u32,
}

/// Appends a frame to `out`.
///
/// # Panics
/// When `payload` is longer than [`MAX_PAYLOAD`]: senders chunk.
pub fn encode(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    assert!(
        payload.len() <= MAX_PAYLOAD,
        "senders split payloads into chunks"
    );
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Writes one frame with a single `write_all`.
///
/// # Errors
/// Those of the writer.
pub fn write(writer: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    encode(&mut bytes, kind, payload);
    writer.write_all(&bytes)
}

/// Reads one frame; `None` at a clean end of the stream.
///
/// # Errors
/// Those of the reader; `InvalidData` for a frame that is too long, `UnexpectedEof` inside one.
pub fn read(reader: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER];
    loop {
        match reader.read(&mut header[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    reader.read_exact(&mut header[1..])?;
    let (kind, length) =
        parse(&header).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, payload }))
}

fn parse(header: &[u8; HEADER]) -> Result<(u8, usize), FrameTooLong> {
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    if length as usize > MAX_PAYLOAD {
        return Err(FrameTooLong {
            kind: header[0],
            length,
        });
    }
    Ok((header[0], length as usize))
}

/// Turns chunks of a stream into frames; holds at most one incomplete frame and the last chunk.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// What was received and belongs to no frame that was taken: the beginning of a raw stream behind
    /// the last frame.
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.start);
        self.buffer.clear();
        self.start = 0;
        rest
    }

    /// The next complete frame, if there is one.
    ///
    /// # Errors
    /// [`FrameTooLong`]; the stream cannot be used after it.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLong> {
        let rest = &self.buffer[self.start..];
        let Some(header) = rest.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, length) = parse(header)?;
        let Some(payload) = rest.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        let frame = Frame {
            kind,
            payload: payload.to_vec(),
        };
        self.start += HEADER + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            chunk in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            for (kind, payload) in &frames {
                encode(&mut bytes, *kind, payload);
            }
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(chunk) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push((frame.kind, frame.payload));
                }
            }
            prop_assert_eq!(&seen, &frames);
            let mut reader = &bytes[..];
            for (kind, payload) in frames {
                prop_assert_eq!(read(&mut reader).unwrap(), Some(Frame { kind, payload }));
            }
            prop_assert_eq!(read(&mut reader).unwrap(), None);
        }
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_buffered() {
        let header = [7, 1, 0, 16, 0];
        let mut decoder = Decoder::default();
        decoder.push(&header);
        assert_eq!(
            decoder.next_frame(),
            Err(FrameTooLong {
                kind: 7,
                length: (1 << 20) + 1
            })
        );
        assert_eq!(
            read(&mut &header[..]).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_cut_frame_is_an_error_and_not_an_end() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, b"hello");
        bytes.pop();
        assert_eq!(
            read(&mut &bytes[..]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
