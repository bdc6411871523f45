//! LZ4's legacy frame (lz4_Frame_format.md, "Legacy frame"): a magic, then blocks of at most
//! 8 MiB, each after its compressed length.

use std::io::{self, Read};

const MAGIC: u32 = 0x184c_2102;
const BLOCK: usize = 8 << 20;

/// Reads what is in the frame. The input must end where the frame does.
pub(crate) struct Lz4Legacy<R> {
    input: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> Lz4Legacy<R> {
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; 4];
        input.read_exact(&mut magic)?;
        if u32::from_le_bytes(magic) != MAGIC {
            return Err(damaged("the magic is wrong".into()));
        }
        Ok(Lz4Legacy {
            input,
            block: Vec::new(),
            at: 0,
        })
    }

    /// Whether there was another block.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut length = Vec::with_capacity(4);
        self.input.by_ref().take(4).read_to_end(&mut length)?;
        if length.is_empty() {
            return Ok(false);
        }
        let length = <[u8; 4]>::try_from(&length[..])
            .map_err(|_| damaged("a block's length is cut short".into()))?;
        let length = u32::from_le_bytes(length);
        // Two frames may follow each other.
        if length == MAGIC {
            return self.next_block();
        }
        let limit = lz4_flex::block::get_maximum_output_size(BLOCK);
        if usize::try_from(length).map_or(true, |length| length > limit) {
            return Err(damaged(format!("a block of {length} bytes")));
        }
        let mut compressed = Vec::new();
        self.input
            .by_ref()
            .take(u64::from(length))
            .read_to_end(&mut compressed)?;
        if compressed.len() as u64 != u64::from(length) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "an lz4 block is cut short",
            ));
        }
        self.block.resize(BLOCK, 0);
        let size = lz4_flex::block::decompress_into(&compressed, &mut self.block)
            .map_err(|error| damaged(error.to_string()))?;
        self.block.truncate(size);
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Lz4Legacy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if buffer.is_empty() || !self.next_block()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.block.len() - self.at);
        buffer[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn damaged(reason: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("damaged lz4 data: {reason}"),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn compress(plain: &[u8]) -> Vec<u8> {
        let mut frame = MAGIC.to_le_bytes().to_vec();
        for block in plain.chunks(BLOCK) {
            let compressed = lz4_flex::block::compress(block);
            frame.extend(u32::try_from(compressed.len()).unwrap().to_le_bytes());
            frame.extend(compressed);
        }
        frame
    }

    #[test]
    fn blocks_follow_each_other_and_damage_is_found() {
        let plain: Vec<u8> = (0..3_000_000u32)
            .flat_map(|n| (n / 5).to_le_bytes())
            .collect();
        let frame = compress(&plain);
        let read = |bytes: &[u8]| {
            let mut read = Vec::new();
            Lz4Legacy::new(bytes)?.read_to_end(&mut read)?;
            io::Result::Ok(read)
        };
        assert!(read(&frame).unwrap() == plain);
        assert!(read(&[&frame[..], &frame].concat()).unwrap().len() == 2 * plain.len());
        for cut in [2, 6, 20, frame.len() - 1] {
            assert!(read(&frame[..cut]).is_err(), "{cut}");
        }
    }
}
