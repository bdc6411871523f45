//! File contents as they stream in: small files go behind their record at once, others into
//! compressed clusters or plain blocks whose index follows with the metadata.
//!
//! A cluster is made of [`PIECE`] bytes, so that nothing of a file must be kept back; one that LZ4
//! does not make a block smaller is stored as it is. Files with large holes are not compressed but
//! mapped by chunks, because only a map can say that there is nothing.

use std::io;
use std::os::unix::fs::FileExt;

use crate::Attributes;
use crate::data::{BLOCK, CHUNK, Data, Extent, is_zero};
use crate::tree;

use super::inode::{self, Layout, Record};
use super::xattrs::{self, Shared};

/// Bytes of a file that are compressed together.
pub(super) const PIECE: usize = 128 << 10;
/// Blocks of metadata that are filled at the same time.
const OPEN: usize = 8;
/// Holes of a file beyond this are worth a map.
const HOLES: u64 = 16 << 20;
/// Chunks that a file with little content is divided into at most, and any other.
const CHUNKS: std::ops::RangeInclusive<u64> = 1 << 12..=1 << 16;

const KIND_AT: u32 = 62;
const CLUSTER_AT: u32 = 48;
const ADDRESS: u64 = (1 << CLUSTER_AT) - 1;

const _: () = assert!(CHUNK.is_multiple_of(PIECE), "pieces never straddle chunks");

/// What an extent of a packed file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Blocks as they are.
    Plain(u64),
    /// A cluster of so many blocks.
    Cluster(u64, u16),
    /// The whole file is behind the record with this number.
    Inline(u64),
    /// Blocks as they are, of a file that is mapped by chunks of 2ⁿ blocks.
    Chunk(u64, u8),
}

impl Stored {
    pub(super) fn of(extent: &Extent) -> Stored {
        let address = extent.start & ADDRESS;
        match extent.start >> KIND_AT {
            0 => Stored::Plain(address),
            1 => Stored::Cluster(address, (extent.start >> CLUSTER_AT) as u16 & 0x3fff),
            2 => Stored::Inline(address),
            _ => Stored::Chunk(address, (extent.start >> CLUSTER_AT) as u8 & 0x1f),
        }
    }

    fn start(self) -> u64 {
        match self {
            Stored::Plain(block) => block,
            Stored::Cluster(block, blocks) => {
                1 << KIND_AT | u64::from(blocks) << CLUSTER_AT | block
            }
            Stored::Inline(number) => 2 << KIND_AT | number,
            Stored::Chunk(block, bits) => 3 << KIND_AT | u64::from(bits) << CLUSTER_AT | block,
        }
    }
}

/// First block and number of blocks that an extent has for itself.
pub(super) fn stored_blocks(extent: &Extent) -> (u64, u64) {
    match Stored::of(extent) {
        Stored::Plain(block) | Stored::Chunk(block, _) => (block, u64::from(extent.len)),
        Stored::Cluster(block, blocks) => (block, u64::from(blocks)),
        Stored::Inline(_) => (0, 0),
    }
}

/// How the file under way is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Compressed,
    /// In chunks of 2ⁿ blocks; the file has so many blocks.
    Chunks(u8, u64),
}

/// A block of metadata that has room left.
struct Open {
    block: u64,
    bytes: Vec<u8>,
}

/// See the module.
pub(crate) struct Packer {
    compress: bool,
    way: Way,
    /// Most recently opened last.
    open: Vec<Open>,
    compressed: Vec<u8>,
    pub(super) shared: Shared,
    /// Number and bytes of records whose files are gone.
    gone: Vec<(u64, u32)>,
    /// Records written so far, and how many of them are gone.
    pub(super) records: u32,
    pub(super) dead: u32,
    pub(super) dropped_xattrs: u64,
}

impl Default for Packer {
    fn default() -> Self {
        Packer::new(false)
    }
}

/// As few bits as divide so many blocks into no more chunks than these.
pub(super) fn chunk_bits(blocks: u64, chunks: u64) -> u8 {
    (0..31)
        .find(|&bits| blocks.div_ceil(1 << bits) <= chunks)
        .unwrap_or(31)
}

impl Packer {
    pub(crate) fn new(compress: bool) -> Self {
        Packer {
            compress,
            way: Way::Compressed,
            open: Vec::new(),
            compressed: Vec::new(),
            shared: Shared::default(),
            gone: Vec::new(),
            records: 0,
            dead: 0,
            dropped_xattrs: 0,
        }
    }

    /// Chooses how the next file is stored; true when it takes whole chunks of new blocks.
    pub(crate) fn begin(&mut self, stored: u64, size: u64) -> bool {
        let blocks = size.div_ceil(BLOCK as u64);
        self.way = match self.compress && size.saturating_sub(stored) <= HOLES {
            true => Way::Compressed,
            false => {
                // The map is to be no burden: a header of an archive must not make megabytes of it.
                let worth = 8 * stored.div_ceil(BLOCK as u64);
                let chunks = worth.clamp(*CHUNKS.start(), *CHUNKS.end());
                Way::Chunks(chunk_bits(blocks, chunks), blocks)
            }
        };
        matches!(self.way, Way::Chunks(1.., _))
    }

    /// Whether holes are stored as zeros.
    pub(crate) fn packs_holes(&self) -> bool {
        self.way == Way::Compressed
    }

    /// Stores a whole file behind its record, if both fit into a block.
    pub(crate) fn inline(
        &mut self,
        data: &mut Data<'_>,
        attributes: &Attributes,
        content: &[u8],
    ) -> io::Result<bool> {
        if content.is_empty() || content.len() > BLOCK - inode::SIZE {
            return Ok(false);
        }
        let given = attributes
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        // What cannot be stored is refused at the end, if the file is still there then.
        let Ok(set) = xattrs::encode(given) else {
            return Ok(false);
        };
        let dropped = set.dropped;
        let Ok(xattrs) = self.shared.place(set, false) else {
            return Ok(false);
        };
        let bytes = inode::SIZE + xattrs.len() + content.len();
        if bytes > BLOCK {
            return Ok(false);
        }
        self.dropped_xattrs += u64::from(dropped);
        self.records += 1;
        let record = Record {
            mode: tree::S_IFREG | attributes.mode & 0o7777,
            uid: attributes.uid,
            gid: attributes.gid,
            size: content.len() as u64,
            links: 1,
            seconds: attributes.mtime.seconds,
            nanos: attributes.mtime.nanos.min(999_999_999),
            serial: self.records,
            xattr_bytes: xattrs.len(),
            layout: Layout::Inline(0),
        };
        let open = self.room(data, bytes)?;
        let number = (open.block * BLOCK as u64 + open.bytes.len() as u64) / inode::SLOT;
        // At most a block, so that it fits.
        let len = bytes as u32;
        open.bytes.extend_from_slice(&record.encode());
        open.bytes.extend_from_slice(&xattrs);
        open.bytes.extend_from_slice(content);
        data.extents_mut().push(Extent {
            logical: 0,
            len,
            start: Stored::Inline(number).start(),
        });
        Ok(true)
    }

    /// The fullest open block that has room, filled up to where a record can begin.
    fn room(&mut self, data: &mut Data<'_>, bytes: usize) -> io::Result<&mut Open> {
        let slot = inode::SLOT as usize;
        let fits = |open: &Open| open.bytes.len().next_multiple_of(slot) + bytes <= BLOCK;
        let candidates = self.open.iter().enumerate().filter(|(_, open)| fits(open));
        let best = candidates.max_by_key(|(_, open)| open.bytes.len());
        let index = match best {
            Some((index, _)) => index,
            None => {
                if self.open.len() == OPEN {
                    let fullest = (0..OPEN).max_by_key(|&i| self.open[i].bytes.len());
                    let mut full = self.open.remove(fullest.unwrap_or(0));
                    full.write(data)?;
                }
                self.open.push(Open {
                    block: data.allocate_run(1),
                    bytes: Vec::with_capacity(BLOCK),
                });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[index];
        let at = open.bytes.len().next_multiple_of(slot);
        open.bytes.resize(at, 0);
        Ok(open)
    }

    /// Stores whole blocks of a file, of which `filled` bytes are content; all but its last call
    /// for a file bring whole pieces.
    pub(crate) fn store(
        &mut self,
        data: &mut Data<'_>,
        first: usize,
        blocks: &[u8],
        filled: usize,
        logical: u32,
    ) -> io::Result<()> {
        match self.way {
            Way::Chunks(0, _) => data.store_runs(first, blocks, logical),
            Way::Chunks(bits, total) => store_chunks(data, first, blocks, logical, bits, total),
            Way::Compressed => {
                let mut logical = logical;
                for (i, piece) in blocks.chunks(PIECE).enumerate() {
                    let content = &piece[..piece.len().min(filled - i * PIECE)];
                    self.store_piece(data, first, piece, content, logical)?;
                    logical += (piece.len() / BLOCK) as u32;
                }
                Ok(())
            }
        }
    }

    fn store_piece(
        &mut self,
        data: &mut Data<'_>,
        first: usize,
        piece: &[u8],
        content: &[u8],
        logical: u32,
    ) -> io::Result<()> {
        let len = piece.len() / BLOCK;
        let packed = if len > 1 { self.compress(content) } else { 0 };
        let blocks = packed.div_ceil(BLOCK);
        if packed == 0 || blocks >= len {
            return data.store_run(first, piece, logical);
        }
        // Compressed data ends where its blocks end (`ZERO_PADDING`).
        let from = blocks * BLOCK - packed;
        self.compressed.copy_within(..packed, from);
        self.compressed[..from].fill(0);
        let start = data.allocate_whole(blocks as u64);
        data.write(start, &self.compressed[..blocks * BLOCK])?;
        data.extents_mut().push(Extent {
            logical,
            len: len as u32,
            start: Stored::Cluster(start, blocks as u16).start(),
        });
        Ok(())
    }

    /// Compresses into the buffer and returns the length; zero when that failed.
    fn compress(&mut self, content: &[u8]) -> usize {
        let most = lz4_flex::block::get_maximum_output_size(content.len());
        self.compressed
            .resize(most.next_multiple_of(BLOCK) + BLOCK, 0);
        lz4_flex::block::compress_into(content, &mut self.compressed).unwrap_or(0)
    }

    /// Ends a file with these extents.
    pub(crate) fn finish(&self, extents: &mut [Extent]) {
        let Way::Chunks(bits, _) = self.way else {
            return;
        };
        for extent in extents {
            if let Stored::Plain(block) = Stored::of(extent) {
                extent.start = Stored::Chunk(block, bits).start();
            }
        }
    }

    /// Gives back an extent of a file that is gone: the blocks that it had for itself.
    pub(crate) fn release(&mut self, extent: &Extent) -> (u64, u64) {
        if let Stored::Inline(number) = Stored::of(extent) {
            self.gone.push((number, extent.len));
            self.dead += 1;
        }
        stored_blocks(extent)
    }

    /// Writes the blocks of records that are not full yet, and zeros over records that are gone:
    /// what is in no directory is not to be in the image.
    pub(super) fn close(&mut self, data: &mut Data<'_>) -> io::Result<()> {
        self.open
            .drain(..)
            .try_for_each(|mut open| open.write(data))?;
        data.flush()?;
        for (number, bytes) in self.gone.drain(..) {
            let zeros = &[0; BLOCK][..bytes as usize];
            data.file().write_all_at(zeros, number * inode::SLOT)?;
        }
        Ok(())
    }
}

impl Open {
    fn write(&mut self, data: &mut Data<'_>) -> io::Result<()> {
        self.bytes.resize(BLOCK, 0);
        data.write(self.block, &self.bytes)
    }
}

/// Stores blocks of a file in chunks of 2ⁿ blocks, each in one run; zeros are not written, and
/// chunks of zeros have no blocks.
fn store_chunks(
    data: &mut Data<'_>,
    first: usize,
    bytes: &[u8],
    logical: u32,
    bits: u8,
    total: u64,
) -> io::Result<()> {
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        if is_zero(block) {
            continue;
        }
        let at = u64::from(logical) + i as u64;
        let last = data.extents_mut()[first..].last().copied();
        let stored = match last {
            // A chunk may be in two extents, which are one run all the same.
            Some(run) if u64::from(run.logical) + u64::from(run.len) > at => {
                run.start + at - u64::from(run.logical)
            }
            _ => {
                let chunk = at >> bits << bits;
                let len = (total.max(at + 1) - chunk).min(1 << bits);
                let start = data.allocate_run(len);
                data.push_extent(first, chunk as u32, start, len as u32);
                start + at - chunk
            }
        };
        data.write(stored, block)?;
    }
    Ok(())
}
