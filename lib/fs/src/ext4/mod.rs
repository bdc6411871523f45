//! Writes a tree and its data as ext4: directories first, then extent and attribute blocks, the
//! journal, bitmaps and inode tables, and last the descriptors and superblocks.

mod directory;
mod extents;
mod group;
mod hash;
mod inode;
mod layout;
mod superblock;
mod tables;
mod xattrs;

use std::collections::HashMap;
use std::io;

use crate::data::{BLOCK, Data};
use crate::error::{Error, Fault, lossy};
use crate::merge::Merge;
use crate::tree::{self, Content, Extents, Inode, InodeId, NodeId, Tree};
use crate::xattr::XattrId;
use crate::{Options, Summary};
use layout::Plan;
pub(crate) use layout::usable;
use superblock::FIRST_INODE;

const ROOT_INODE: u32 = 2;
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// Beyond this, a directory's count is 1 (`dir_nlink`) and a file is refused, as by the kernel.
const LINKS: u32 = 65_000;

/// Writes everything but the file contents, which are in place.
pub(crate) fn finish(mut merge: Merge<'_, '_>, options: &Options) -> Result<Summary, Error> {
    let root = merge.finish()?;
    let entries = merge.entries;
    merge.data.punch().map_err(Error::Write)?;
    let mut writer = Writer {
        seed: superblock::seed(options),
        hash_seed: hash_seed(&options.hash_seed),
        tree: merge.tree,
        data: merge.data,
        numbers: Vec::new(),
        order: Vec::new(),
        indexed: Vec::new(),
        large_dir: false,
        special: HashMap::new(),
        sets: HashMap::new(),
        dropped_xattrs: 0,
    };
    writer.directories(root, options.time)?;
    writer.side_blocks(root).map_err(Error::Write)?;
    let used = FIRST_INODE - 1 + writer.order.len() as u32;
    let free = writer.data.free_runs().map(|run| run.end - run.start).sum();
    let plan =
        Plan::choose(writer.data.next(), free, u64::from(used), options).map_err(|needed| {
            let size = match options.size {
                crate::SizeChoice::Exactly(size) => size,
                _ => 0,
            };
            Error::TooSmall { size, needed }
        })?;
    let free_blocks = writer
        .metadata(root, &plan, used, options)
        .map_err(Error::Write)?;
    Ok(Summary {
        image_bytes: plan.blocks * BLOCK as u64,
        used_bytes: (plan.blocks - free_blocks) * BLOCK as u64,
        entries,
        inodes: u64::from(used),
        dropped_xattrs: writer.dropped_xattrs,
    })
}

/// A distinct set of attributes: its form, and the block that inodes share at the moment.
struct Set {
    stored: xattrs::Stored,
    users: u32,
    block: u64,
    room: u32,
}

struct Writer<'f> {
    seed: u32,
    hash_seed: [u32; 4],
    tree: Tree,
    data: Data<'f>,
    /// Inode numbers by inode id; zero for none.
    numbers: Vec<u32>,
    /// Inodes from [`FIRST_INODE`] on.
    order: Vec<InodeId>,
    /// Inode numbers of directories with a hash tree, ascending.
    indexed: Vec<u32>,
    large_dir: bool,
    /// Extent roots and attribute blocks of the inodes that need blocks of their own for them.
    special: HashMap<u32, (Option<extents::Root>, u64)>,
    sets: HashMap<XattrId, Set>,
    dropped_xattrs: u64,
}

impl Writer<'_> {
    /// Numbers all inodes and writes the directories, depth first, names in order.
    fn directories(&mut self, root: NodeId, time: i64) -> Result<(), Error> {
        self.lost_and_found(root, time)?;
        self.numbers = vec![0; self.tree.inode_count()];
        let root_inode = self.tree.inode_of(root);
        self.numbers[root_inode.index()] = ROOT_INODE;
        self.count_set(root)?;
        if let Some(node) = self.tree.child(root, LOST_AND_FOUND) {
            self.number(node)?;
        }
        let mut todo = vec![(root, ROOT_INODE)];
        while let Some((node, parent)) = todo.pop() {
            let children = self.tree.sorted_children(node);
            for &child in &children {
                self.number(child)?;
            }
            let own = self.numbers[self.tree.inode_of(node).index()];
            let mut subdirectories = 0;
            for &child in children.iter().rev() {
                if self.tree.is_directory(child) {
                    subdirectories += 1;
                    todo.push((child, own));
                }
            }
            self.directory(node, own, parent, &children, subdirectories)
                .map_err(Error::Write)?;
        }
        self.indexed.sort_unstable();
        Ok(())
    }

    fn lost_and_found(&mut self, root: NodeId, time: i64) -> Result<(), Error> {
        if let Some(node) = self.tree.child(root, LOST_AND_FOUND)
            && self.tree.exists(node)
        {
            return match self.tree.is_directory(node) {
                true => Ok(()),
                false => Err(self.unstorable(node, Fault::LostAndFound)),
            };
        }
        let inode = self.tree.add_inode(Inode {
            seconds: time,
            nanos: 0,
            size: 0,
            content: Content::Directory(Extents::default()),
            uid: 0,
            gid: 0,
            xattrs: XattrId::default(),
            refs: 0,
            mode: tree::S_IFDIR | 0o700,
        })?;
        match self.tree.child(root, LOST_AND_FOUND) {
            Some(node) => {
                self.tree.drop_children(node);
                self.tree.clear(node, tree::MASK | tree::GHOST);
                self.tree.set_inode(node, inode);
            }
            None => {
                self.tree.attach(root, LOST_AND_FOUND, inode, 0)?;
            }
        }
        Ok(())
    }

    fn number(&mut self, node: NodeId) -> Result<(), Error> {
        let id = self.tree.inode_of(node);
        if self.numbers[id.index()] != 0 {
            return Ok(());
        }
        let inode = self.tree.inode(id);
        if inode.refs > LINKS && !matches!(inode.content, Content::Directory(_)) {
            return Err(self.unstorable(node, Fault::Links));
        }
        self.numbers[id.index()] = FIRST_INODE + self.order.len() as u32;
        self.order.push(id);
        self.count_set(node)
    }

    /// Encodes the attributes of a node's inode, once for each distinct set, and counts a user.
    fn count_set(&mut self, node: NodeId) -> Result<(), Error> {
        let id = self.tree.inode(self.tree.inode_of(node)).xattrs;
        if id.is_empty() {
            return Ok(());
        }
        if !self.sets.contains_key(&id) {
            let stored = xattrs::encode(self.tree.xattrs.get(id))
                .map_err(|fault| self.unstorable(node, fault))?;
            self.sets.insert(
                id,
                Set {
                    stored,
                    users: 0,
                    block: 0,
                    room: 0,
                },
            );
        }
        if let Some(set) = self.sets.get_mut(&id) {
            set.users += 1;
            self.dropped_xattrs += u64::from(set.stored.dropped);
        }
        Ok(())
    }

    fn unstorable(&self, node: NodeId, fault: Fault) -> Error {
        Error::Unstorable {
            path: lossy(&self.tree.path(node)),
            fault,
        }
    }

    fn directory(
        &mut self,
        node: NodeId,
        own: u32,
        parent: u32,
        children: &[NodeId],
        subdirectories: u32,
    ) -> io::Result<()> {
        let entries: Vec<_> = children
            .iter()
            .map(|&child| {
                let id = self.tree.inode_of(child);
                directory::Entry {
                    name: self.tree.name(child),
                    inode: self.numbers[id.index()],
                    kind: file_type(self.tree.inode(id).mode),
                }
            })
            .collect();
        let seed = inode::seed(self.seed, own);
        let laid = directory::write(&entries, own, parent, &self.hash_seed, seed);
        if laid.indexed {
            self.indexed.push(own);
        }
        self.large_dir |= laid.large;
        let extents = self
            .data
            .allocate_extents((laid.bytes.len() / BLOCK) as u32);
        self.write_extents(extents, &laid.bytes)?;
        let id = self.tree.inode_of(node);
        let inode = self.tree.inode_mut(id);
        inode.size = laid.bytes.len() as u64;
        inode.content = Content::Directory(extents);
        // Directories have one name, so their field can hold the link count.
        inode.refs = match subdirectories + 2 {
            links if links > LINKS => 1,
            links => links,
        };
        Ok(())
    }

    fn write_extents(&mut self, extents: Extents, bytes: &[u8]) -> io::Result<()> {
        for extent in self.data.extents(extents).to_vec() {
            let from = extent.logical as usize * BLOCK;
            let to = (from + extent.len as usize * BLOCK).min(bytes.len());
            self.data.write(extent.start, &bytes[from..to])?;
        }
        Ok(())
    }

    /// Writes targets, extent trees and attribute blocks that do not fit into inodes.
    fn side_blocks(&mut self, root: NodeId) -> io::Result<()> {
        self.side_block(self.tree.inode_of(root), ROOT_INODE)?;
        for i in 0..self.order.len() {
            self.side_block(self.order[i], FIRST_INODE + i as u32)?;
        }
        Ok(())
    }

    fn side_block(&mut self, id: InodeId, number: u32) -> io::Result<()> {
        let inode = self.tree.inode(id);
        let (set, content) = (inode.xattrs, inode.content);
        let mut root = None;
        match content {
            Content::File(extents) | Content::Directory(extents) if extents.count > 4 => {
                root = Some(self.extent_root(extents, number)?);
            }
            Content::Symlink(text) if inode.size >= inode::FAST_SYMLINK => {
                let mut block = [0; BLOCK];
                let target = self.tree.text(text);
                block[..target.len()].copy_from_slice(target);
                let extents = self.data.allocate_extents(1);
                self.write_extents(extents, &block)?;
                root = Some(self.extent_root(extents, number)?);
            }
            _ => {}
        }
        let block = self.attribute_block(set)?;
        if root.is_some() || block != 0 {
            self.special.insert(number, (root, block));
        }
        Ok(())
    }

    fn extent_root(&mut self, extents: Extents, number: u32) -> io::Result<extents::Root> {
        let list = self.data.extents(extents).to_vec();
        extents::write(&mut self.data, &list, inode::seed(self.seed, number))
    }

    /// The attribute block for one more inode with this set; zero for none.
    fn attribute_block(&mut self, set: XattrId) -> io::Result<u64> {
        let Some(set) = self.sets.get_mut(&set) else {
            return Ok(0);
        };
        let Some(block) = &mut set.stored.block else {
            return Ok(0);
        };
        if set.room == 0 {
            set.room = set.users.min(xattrs::SHARED);
            set.users -= set.room;
            set.block = self.data.allocate_run(1);
            xattrs::seal(block, set.room, set.block, self.seed);
            self.data.write(set.block, &block[..])?;
        }
        set.room -= 1;
        Ok(set.block)
    }
}

fn hash_seed(bytes: &[u8; 16]) -> [u32; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

/// The type field of a directory entry.
fn file_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        tree::S_IFREG => 1,
        tree::S_IFDIR => 2,
        tree::S_IFCHR => 3,
        tree::S_IFBLK => 4,
        tree::S_IFIFO => 5,
        tree::S_IFLNK => 7,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "../../tests/common/unmount.rs"]
mod unmount;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use tempfile::NamedTempFile;

    use super::*;
    use crate::merge::New;
    use crate::{Attributes, Limits};

    /// Writes a file system with one file whose blocks are allocated but hold nothing.
    fn one_file(allocate: impl FnOnce(&mut Data<'_>) -> (u64, Extents)) -> NamedTempFile {
        let image = NamedTempFile::new().unwrap();
        let (options, limits) = (Options::default(), Limits::default());
        let data = Data::new(image.as_file(), usable);
        let mut merge = Merge::new(data, &limits, 0, &|_| {});
        let mut view = merge.view("test").unwrap();
        let file = New::File(allocate(&mut merge.data));
        merge
            .place(&mut view, b"f", &Attributes::new(0o600), file)
            .unwrap();
        merge.close(view).unwrap();
        finish(merge, &options).unwrap();
        let fsck = Command::new("/usr/sbin/e2fsck")
            .arg("-fn")
            .arg(image.path())
            .output()
            .unwrap();
        assert!(
            fsck.status.success(),
            "{}",
            String::from_utf8_lossy(&fsck.stdout)
        );
        image
    }

    #[test]
    fn extent_trees_of_four_levels() {
        let count = 340 * 340 * 4 + 1;
        let image = one_file(|data| {
            let extents = data.fragmented(count);
            for i in (0..count).step_by(9999) {
                let start = data.extents(extents)[i as usize].start;
                data.write(start, &[(i % 251) as u8; BLOCK]).unwrap();
            }
            (u64::from(2 * count) * BLOCK as u64, extents)
        });
        let extents = Command::new("/usr/sbin/debugfs")
            .args(["-R", "ex -n /f"])
            .arg(image.path())
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&extents.stdout).contains(" 0/ 3 "));
        if skipped_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "ext4", "-o", "loop,ro"])
            .arg(image.path());
        assert!(mount.arg(directory.path()).status().unwrap().success());
        let file = std::fs::File::open(directory.path().join("f")).unwrap();
        let mut wrong = Vec::new();
        for i in (0..count).step_by(9999) {
            let mut block = [1; 2 * BLOCK];
            let at = u64::from(2 * i) * BLOCK as u64;
            file.read_exact_at(&mut block, at).unwrap();
            let expected = [[(i % 251) as u8; BLOCK], [0; BLOCK]].concat();
            if block[..] != expected[..] {
                wrong.push(i);
            }
        }
        drop(file);
        assert_eq!(unmount::unmount(directory.path()), Ok(()));
        assert_eq!(wrong, [0; 0], "the kernel reads each of four levels");
    }

    /// Whether tests that need root were asked to be skipped by name.
    fn skipped_root() -> bool {
        let skip = std::env::var("BANGER_TEST_SKIP").unwrap_or_default();
        skip.split(',').any(|word| word == "root")
    }

    #[test]
    fn content_passes_all_kinds_of_group_heads() {
        for gib in [1u32, 8, 9, 40] {
            let blocks = gib << 18;
            one_file(|data| {
                (
                    u64::from(blocks) * BLOCK as u64,
                    data.allocate_extents(blocks),
                )
            });
        }
    }
}
