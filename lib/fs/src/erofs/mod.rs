//! Writes a tree and its data as EROFS: contents and the records of small files as they come, then
//! directories, the other records, shared attributes, and last the superblock with the root.
//!
//! A number of an inode is a place of the image, so that records may be anywhere; only the root's
//! has 16 bits, and so a place in the first block. Kernel: Documentation/filesystems/erofs.rst.

mod directory;
mod index;
mod inode;
mod packer;
mod superblock;
mod xattrs;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::data::{BLOCK, Data, Output};
use crate::error::{Error, Fault, lossy};
use crate::merge::Merge;
use crate::tree::{Content, InodeId, NodeId, Tree};
use crate::{Compression, Options, Summary};
use inode::{Layout, Record};
pub(crate) use packer::Packer;
use packer::stored_blocks;
use xattrs::Set;

/// The root's record is in the first block, behind the superblock.
const ROOT_AT: usize = (superblock::AT + superblock::SIZE).next_multiple_of(inode::SLOT as usize);
/// Numbers that count from the start of the metadata, which is not known at first.
const RELATIVE: u64 = 1 << 63;

/// The blocks of an image in an empty file.
pub(crate) fn data(image: &File, compression: Compression) -> Data<'_> {
    let packer = Packer::new(compression == Compression::Lz4);
    Data::packed(image, |block| block.max(1)..u64::MAX >> 16, packer)
}

/// Writes everything but what is there already.
pub(crate) fn finish(mut merge: Merge<'_, '_>, options: &Options) -> Result<Summary, Error> {
    let root = merge.finish()?;
    let entries = merge.entries;
    merge.data.punch().map_err(Error::Write)?;
    let mut packer = merge.data.take_packer().unwrap_or_default();
    packer.close(&mut merge.data).map_err(Error::Write)?;
    let mut writer = Writer {
        numbers: vec![0; merge.tree.inode_count()],
        tree: merge.tree,
        packer: *packer,
        next: merge.data.next(),
        data: merge.data,
        order: Vec::new(),
        relinked: Vec::new(),
        at: 0,
    };
    writer.assign(root)?;
    let summary = writer.write(root, options)?;
    Ok(Summary { entries, ..summary })
}

/// An inode whose record is written with the metadata.
struct Planned {
    node: NodeId,
    /// Of a directory: its parent.
    parent: NodeId,
    /// Bytes from the start of the metadata, or, of the root, of the image.
    at: u64,
    /// What is behind the record first.
    xattrs: Box<[u8]>,
    /// First of its own blocks, for what is neither in the data already nor behind the record.
    block: u64,
    /// Whether the last, incomplete block is behind the record.
    inline: bool,
}

struct Writer<'f> {
    tree: Tree,
    data: Data<'f>,
    packer: Packer,
    /// Numbers by inode id; zero for none.
    numbers: Vec<u64>,
    order: Vec<Planned>,
    /// Numbers of records that are written already, with the count of names they should have.
    relinked: Vec<(u64, u32)>,
    /// The next free block.
    next: u64,
    /// Bytes of metadata planned.
    at: u64,
}

impl Writer<'_> {
    /// Gives every inode its place, depth first, names in order.
    fn assign(&mut self, root: NodeId) -> Result<(), Error> {
        let mut todo = vec![(root, root)];
        while let Some((node, parent)) = todo.pop() {
            let children = self.tree.sorted_children(node);
            let id = self.tree.inode_of(node);
            let (counts, last) = {
                let names = with_dots(children.iter().map(|&child| self.tree.name(child)));
                directory::split(names.into_iter())
            };
            let size = (counts.len() - 1) * BLOCK + last;
            let mut subdirectories = 0;
            self.plan(node, parent, size as u64, node == root)?;
            for &child in children.iter().rev() {
                if self.tree.is_directory(child) {
                    subdirectories += 1;
                    todo.push((child, node));
                }
            }
            for &child in &children {
                if !self.tree.is_directory(child) {
                    self.leaf(child, node)?;
                }
            }
            let inode = self.tree.inode_mut(id);
            inode.size = size as u64;
            // Directories have one name, so their field can hold the link count.
            inode.refs = subdirectories + 2;
        }
        Ok(())
    }

    fn leaf(&mut self, node: NodeId, parent: NodeId) -> Result<(), Error> {
        let id = self.tree.inode_of(node);
        if self.numbers[id.index()] != 0 {
            return Ok(());
        }
        let inode = self.tree.inode(id);
        if let Content::File(extents) = inode.content
            && let Some(number) = index::inline(self.data.extents(extents))
        {
            self.numbers[id.index()] = number;
            if inode.refs > 1 {
                self.relinked.push((number, inode.refs));
            }
            return Ok(());
        }
        let size = inode.size;
        self.plan(node, parent, size, false)
    }

    /// Places a record, with what is behind it, and blocks for content that has none yet.
    fn plan(&mut self, node: NodeId, parent: NodeId, size: u64, root: bool) -> Result<(), Error> {
        let id = self.tree.inode_of(node);
        let set = self
            .attributes(id)
            .map_err(|fault| self.unstorable(node, fault))?;
        self.packer.dropped_xattrs += u64::from(set.dropped);
        let placed = self.packer.shared.place(set, root);
        let xattrs = placed.map_err(|fault| self.unstorable(node, fault))?;
        let head = inode::SIZE + xattrs.len();
        let room = if root { BLOCK - ROOT_AT } else { BLOCK };
        let tail = (size % BLOCK as u64) as usize;
        let (mut behind, mut blocks, mut inline) = (0, 0, false);
        match self.tree.inode(id).content {
            Content::File(extents) => {
                behind = index::bytes(self.data.extents(extents), size, head);
            }
            Content::Directory(_) | Content::Symlink(_) => {
                inline = tail > 0 && head + tail <= room;
                behind = if inline { tail as u64 } else { 0 };
                blocks = size.div_ceil(BLOCK as u64) - u64::from(inline);
            }
            _ => {}
        }
        let at = if root {
            ROOT_AT as u64
        } else {
            // What is inline must not cross blocks; nor should a record.
            let unit = if inline { head + tail } else { head.min(BLOCK) };
            self.reserve(unit as u64, head as u64 + behind)
        };
        self.numbers[id.index()] = match root {
            true => at / inode::SLOT,
            false => (at / inode::SLOT) | RELATIVE,
        };
        let block = if blocks > 0 { self.next } else { 0 };
        self.next += blocks;
        self.order.push(Planned {
            node,
            parent,
            at,
            xattrs: xattrs.into_boxed_slice(),
            block,
            inline,
        });
        Ok(())
    }

    /// The next place where `unit` bytes are in one block.
    fn reserve(&mut self, unit: u64, bytes: u64) -> u64 {
        let block = BLOCK as u64;
        let mut at = self.at.next_multiple_of(inode::SLOT);
        if at % block + unit > block {
            at = at.next_multiple_of(block);
        }
        self.at = at + bytes;
        at
    }

    fn attributes(&self, id: InodeId) -> Result<Set, Fault> {
        let set = self.tree.xattrs.get(self.tree.inode(id).xattrs);
        xattrs::encode(set.iter().map(|(name, value)| (&name[..], &value[..])))
    }

    fn unstorable(&self, node: NodeId, fault: Fault) -> Error {
        Error::Unstorable {
            path: lossy(&self.tree.path(node)),
            fault,
        }
    }

    /// Writes directories, records, attributes and superblock in their places.
    fn write(mut self, root: NodeId, options: &Options) -> Result<Summary, Error> {
        let start = self.next;
        for number in &mut self.numbers {
            if *number & RELATIVE != 0 {
                *number = (*number & !RELATIVE) + start * (BLOCK as u64 / inode::SLOT);
            }
        }
        // erofs-utils 1.5 reads a header of attributes behind every record, also where there is none.
        let read = if start > 1 || self.at > 0 {
            self.at + xattrs::HEADER as u64
        } else {
            0
        };
        let metadata = read.div_ceil(BLOCK as u64);
        let xattr_block = start + metadata;
        let shared = std::mem::take(&mut self.packer.shared.bytes);
        let blocks = xattr_block + (shared.len() as u64).div_ceil(BLOCK as u64);
        let Ok(blocks) = u32::try_from(blocks) else {
            return Err(self.unstorable(root, Fault::FileSize));
        };
        let file = self.data.file();
        file.set_len(u64::from(blocks) * BLOCK as u64)
            .map_err(Error::Write)?;
        let inodes = self.records(start, &shared, xattr_block, blocks, options);
        let inodes = inodes.map_err(Error::Write)?;
        let free: u64 = self.data.free_runs().map(|run| run.end - run.start).sum();
        Ok(Summary {
            image_bytes: u64::from(blocks) * BLOCK as u64,
            used_bytes: (u64::from(blocks) - free) * BLOCK as u64,
            entries: 0,
            inodes,
            dropped_xattrs: self.packer.dropped_xattrs,
        })
    }

    fn records(
        &mut self,
        start: u64,
        shared: &[u8],
        xattr_block: u64,
        blocks: u32,
        options: &Options,
    ) -> io::Result<u64> {
        let mut first = [0; BLOCK];
        let mut metadata = Metadata::new(self.data.file(), start);
        let alive = self.packer.records - self.packer.dead;
        let inodes = u64::from(alive) + self.order.len() as u64;
        for planned in std::mem::take(&mut self.order) {
            let bytes = self.record(&planned)?;
            if planned.at == ROOT_AT as u64 && planned.node == planned.parent {
                first[ROOT_AT..][..bytes.len()].copy_from_slice(&bytes);
            } else {
                metadata.put(planned.at, &bytes)?;
            }
        }
        metadata.finish()?;
        let mut area = shared.to_vec();
        area.resize(area.len().next_multiple_of(BLOCK), 0);
        self.data.write(xattr_block, &area)?;
        let compressed = options.format == crate::Format::Erofs(Compression::Lz4);
        let totals = superblock::Totals {
            blocks,
            inodes,
            root: (ROOT_AT as u64 / inode::SLOT) as u16,
            xattr_block: if shared.is_empty() {
                0
            } else {
                xattr_block as u32
            },
            cluster_blocks: if compressed {
                (packer::PIECE / BLOCK) as u16
            } else {
                0
            },
        };
        superblock::put(&mut first, &totals, options);
        self.data.write(0, &first)?;
        self.data.flush()?;
        for (number, links) in &self.relinked {
            let at = number * inode::SLOT + inode::LINKS_AT as u64;
            self.data.file().write_all_at(&links.to_le_bytes(), at)?;
        }
        Ok(inodes)
    }

    /// A record with all that is behind it; blocks of directories and long targets are written.
    fn record(&mut self, planned: &Planned) -> io::Result<Vec<u8>> {
        let id = self.tree.inode_of(planned.node);
        let inode = self.tree.inode(id).clone();
        let mut behind = Vec::new();
        let mut layout = Layout::Plain(0);
        match inode.content {
            Content::File(extents) => {
                let head = inode::SIZE + planned.xattrs.len();
                (layout, behind) = index::encode(self.data.extents(extents), inode.size, head);
            }
            Content::Directory(_) => {
                let content = self.directory(planned);
                (layout, behind) = self.content(planned, content)?;
            }
            Content::Symlink(text) => {
                let content = self.tree.text(text).to_vec();
                (layout, behind) = self.content(planned, content)?;
            }
            Content::Device { major, minor } => {
                layout = Layout::Device(inode::device(major, minor));
            }
            Content::Fifo => {}
            Content::Unread | Content::Pending | Content::Alias(_) => {
                unreachable!("a merged tree has nothing that is hidden or not resolved")
            }
        }
        self.packer.records += 1;
        let record = Record {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            links: inode.refs,
            seconds: inode.seconds,
            nanos: inode.nanos,
            serial: self.packer.records,
            xattr_bytes: planned.xattrs.len(),
            layout,
        };
        let mut bytes = record.encode().to_vec();
        bytes.extend_from_slice(&planned.xattrs);
        bytes.extend_from_slice(&behind);
        Ok(bytes)
    }

    fn directory(&self, planned: &Planned) -> Vec<u8> {
        let children = self.tree.sorted_children(planned.node);
        let number = |node: NodeId| self.numbers[self.tree.inode_of(node).index()];
        let kind = |node: NodeId| inode::file_type(self.tree.inode(self.tree.inode_of(node)).mode);
        let dots = [(&b"."[..], planned.node), (b"..", planned.parent)];
        let named = children.iter().map(|&child| (self.tree.name(child), child));
        let mut entries: Vec<_> = named
            .chain(dots)
            .map(|(name, node)| directory::Entry {
                name,
                inode: number(node),
                kind: kind(node),
            })
            .collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(b.name));
        directory::encode(&entries)
    }

    /// Writes the blocks of a content and returns what goes behind the record.
    fn content(
        &mut self,
        planned: &Planned,
        mut content: Vec<u8>,
    ) -> io::Result<(Layout, Vec<u8>)> {
        let whole = if planned.inline {
            content.len() / BLOCK * BLOCK
        } else {
            content.len()
        };
        let behind = content.split_off(whole);
        content.resize(whole.next_multiple_of(BLOCK), 0);
        if !content.is_empty() {
            self.data.write(planned.block, &content)?;
        }
        let block = planned.block as u32;
        Ok(match planned.inline {
            true => (Layout::Inline(block), behind),
            false => (Layout::Plain(block), behind),
        })
    }
}

/// The names of a directory with `.` and `..`, in order.
fn with_dots<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    let mut names: Vec<_> = names.chain([&b"."[..], b".."]).collect();
    names.sort_unstable();
    names
}

/// Bytes at ascending places of one area, written in whole blocks.
struct Metadata<'f> {
    out: Output<'f>,
    bytes: Vec<u8>,
    /// Block of the first byte held.
    block: u64,
    /// Place of the first byte held.
    from: u64,
}

impl<'f> Metadata<'f> {
    const HELD: usize = 256 << 10;

    fn new(file: &'f File, block: u64) -> Self {
        Metadata {
            out: Output::new(file),
            bytes: Vec::new(),
            block,
            from: 0,
        }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes.resize((at - self.from) as usize, 0);
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= Self::HELD {
            let whole = self.bytes.len() / BLOCK * BLOCK;
            self.out.write(self.block, &self.bytes[..whole])?;
            self.bytes.drain(..whole);
            self.block += (whole / BLOCK) as u64;
            self.from += whole as u64;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self.out.write(self.block, &self.bytes)?;
        self.out.flush()
    }
}
