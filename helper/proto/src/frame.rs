//! Frames: `length: u32` little-endian, then as many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest request, in bytes of JSON.
pub const MAX_REQUEST: usize = 64 << 10;

/// Longest reply, in bytes of JSON; lists are long.
pub const MAX_REPLY: usize = 4 << 20;

const HEADER: usize = 4;

/// Of what is said about content that is not understood, in characters.
const SAID: usize = 200;

/// A frame that is not understood; the connection cannot be used after it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the receiver takes.
    #[error("a frame of {length} bytes was announced, the limit is {limit}")]
    TooLong {
        /// As announced, in bytes.
        length: usize,
        /// In bytes.
        limit: usize,
    },
    /// No JSON, or not of the expected form.
    #[error("a frame is not understood: {0}")]
    Content(String),
}

/// A value as a frame.
///
/// # Errors
/// When it is longer than `limit`, in bytes of JSON.
pub fn encode(value: &impl Serialize, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, value).map_err(content)?;
    let length = bytes.len() - HEADER;
    match u32::try_from(length) {
        Ok(header) if length <= limit => {
            bytes[..HEADER].copy_from_slice(&header.to_le_bytes());
            Ok(bytes)
        }
        _ => Err(FrameError::TooLong { length, limit }),
    }
}

/// The value in the JSON of a frame.
///
/// # Errors
/// [`FrameError::Content`], with little of the content: it goes to logs.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(json).map_err(content)
}

fn content(error: serde_json::Error) -> FrameError {
    let text = error.to_string();
    match text.char_indices().nth(SAID) {
        Some((end, _)) => FrameError::Content(format!("{}…", &text[..end])),
        None => FrameError::Content(text),
    }
}

/// Turns chunks of a stream into the JSON of frames; holds at most one frame and the last chunk.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    limit: usize,
}

impl Decoder {
    /// Refuses frames with more than `limit` bytes of JSON.
    pub fn new(limit: usize) -> Self {
        Decoder {
            buffer: Vec::new(),
            limit,
        }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_inside(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// How many bytes are missing for sure: of the header, then of the frame. Who reads no more than that gets
    /// descriptors with the frame that they came with, as the kernel keeps their place in the stream.
    pub fn missing(&self) -> usize {
        match self.buffer.first_chunk::<HEADER>() {
            None => HEADER - self.buffer.len(),
            Some(header) => {
                let length = u32::from_le_bytes(*header) as usize;
                (HEADER + length.min(self.limit)).saturating_sub(self.buffer.len())
            }
        }
    }

    /// The JSON of the next complete frame.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], as soon as the header says so.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > self.limit {
            let limit = self.limit;
            return Err(FrameError::TooLong { length, limit });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        let rest = self.buffer.split_off(HEADER + length);
        let mut frame = std::mem::replace(&mut self.buffer, rest);
        frame.drain(..HEADER);
        Ok(Some(frame))
    }
}
