//! What depends on the size: the journal, inode tables, bitmaps and descriptors.

use std::io;

use super::inode::{self, Blocks, Record};
use super::layout::{self, Plan};
use super::superblock::{self, FIRST_INODE, JOURNAL_INODE, Totals};
use super::{ROOT_INODE, Writer, extents, group};
use crate::Options;
use crate::data::{BLOCK, Data};
use crate::tree::{self, Content, InodeId, NodeId};

impl Writer<'_> {
    /// Lays out and writes what depends on the size, and returns the number of free blocks.
    pub(super) fn metadata(
        &mut self,
        root: NodeId,
        plan: &Plan,
        used: u32,
        options: &Options,
    ) -> io::Result<u64> {
        self.data.file().set_len(plan.blocks * BLOCK as u64)?;
        let journal = match plan.journal {
            0 => None,
            blocks => Some(self.journal(blocks)?),
        };
        let bitmaps: Vec<(u64, u64)> = (0..plan.groups)
            .map(|_| (self.data.allocate_run(1), self.data.allocate_run(1)))
            .collect();
        let tables: Vec<u64> = (0..plan.groups)
            .map(|_| self.data.allocate_run(plan.table_blocks()))
            .collect();
        let mut groups = group::Groups::new(plan, &self.data, &bitmaps, &tables);
        let mut table = Table {
            plan,
            tables: &tables,
            block: [0; BLOCK],
            filled: 0,
        };
        for number in 1..=used {
            let (raw, directory) = match number {
                ROOT_INODE => self.record(self.tree.inode_of(root), number)?,
                JOURNAL_INODE => (self.journal_record(journal.as_ref()), false),
                n if n < FIRST_INODE => ([0; layout::INODE_SIZE], false),
                n => self.record(self.order[(n - FIRST_INODE) as usize], n)?,
            };
            groups.count_inode(number, directory);
            table.push(&mut self.data, number, &raw, number == used)?;
        }
        groups.write_bitmaps(&mut self.data, self.seed)?;
        let totals = Totals {
            free_blocks: groups.free_blocks(),
            free_inodes: plan.inodes_per_group * plan.groups as u32 - used,
            large_dir: self.large_dir,
            journal: journal
                .map(|(root, _)| (root.i_block, u64::from(plan.journal) * BLOCK as u64)),
        };
        groups.write_descriptors(&mut self.data, self.seed, |group| {
            superblock::encode(plan, &totals, options, group)
        })?;
        self.data.flush()?;
        Ok(totals.free_blocks)
    }

    fn journal(&mut self, blocks: u32) -> io::Result<(extents::Root, u64)> {
        let extents = self.data.allocate_extents(blocks);
        let mut block = [0; BLOCK];
        block[..superblock::SIZE].copy_from_slice(&superblock::journal(blocks));
        let first = self
            .data
            .extents(extents)
            .first()
            .map_or(0, |extent| extent.start);
        self.data.write(first, &block)?;
        Ok((self.extent_root(extents, JOURNAL_INODE)?, u64::from(blocks)))
    }

    fn journal_record(&self, journal: Option<&(extents::Root, u64)>) -> [u8; layout::INODE_SIZE] {
        let Some((root, blocks)) = journal else {
            return [0; layout::INODE_SIZE];
        };
        let record = Record {
            mode: tree::S_IFREG | 0o600,
            uid: 0,
            gid: 0,
            size: blocks * BLOCK as u64,
            links: 1,
            seconds: 0,
            nanos: 0,
            blocks: blocks + root.tree_blocks,
            indexed: false,
            attribute_block: 0,
            attributes: None,
        };
        record.encode(
            &Blocks::Extents(*root),
            b"",
            inode::seed(self.seed, JOURNAL_INODE),
        )
    }

    /// One inode's record, and whether it is a directory.
    fn record(&mut self, id: InodeId, number: u32) -> io::Result<([u8; layout::INODE_SIZE], bool)> {
        let seed = inode::seed(self.seed, number);
        let inode = self.tree.inode(id).clone();
        let (root, attribute_block) = self.special.remove(&number).unwrap_or((None, 0));
        let mut blocks = u64::from(attribute_block != 0);
        let what = match inode.content {
            Content::File(extents) | Content::Directory(extents) => {
                let list = self.data.extents(extents);
                blocks += list.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
                let root = match root {
                    Some(root) => root,
                    None => {
                        let list = list.to_vec();
                        extents::write(&mut self.data, &list, seed)?
                    }
                };
                blocks += root.tree_blocks;
                Blocks::Extents(root)
            }
            Content::Symlink(text) => match root {
                Some(root) => {
                    blocks += 1;
                    Blocks::Extents(root)
                }
                None => Blocks::Target(text),
            },
            Content::Device { major, minor } => Blocks::Device { major, minor },
            Content::Fifo => Blocks::Nothing,
            Content::Unread | Content::Pending | Content::Alias(_) => {
                unreachable!("a merged tree has nothing that is hidden or not resolved")
            }
        };
        let target = match what {
            Blocks::Target(text) => self.tree.text(text),
            _ => b"",
        };
        let set = self.sets.get(&inode.xattrs);
        let record = Record {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            links: inode.refs as u16,
            seconds: inode.seconds,
            nanos: inode.nanos,
            blocks,
            indexed: self.indexed.binary_search(&number).is_ok(),
            attribute_block,
            attributes: set.and_then(|set| set.stored.inode.as_deref()),
        };
        let directory = matches!(inode.content, Content::Directory(_));
        Ok((record.encode(&what, target, seed), directory))
    }
}

/// Inode records on their way into table blocks.
struct Table<'p> {
    plan: &'p Plan,
    tables: &'p [u64],
    block: [u8; BLOCK],
    filled: usize,
}

impl Table<'_> {
    fn push(
        &mut self,
        data: &mut Data<'_>,
        number: u32,
        raw: &[u8; layout::INODE_SIZE],
        last: bool,
    ) -> io::Result<()> {
        self.block[self.filled..][..raw.len()].copy_from_slice(raw);
        self.filled += raw.len();
        if self.filled == BLOCK || last {
            let index = number - 1;
            let table = self.tables[(index / self.plan.inodes_per_group) as usize];
            let block = (index % self.plan.inodes_per_group) / layout::INODES_PER_BLOCK;
            data.write(table + u64::from(block), &self.block)?;
            self.block = [0; BLOCK];
            self.filled = 0;
        }
        Ok(())
    }
}
