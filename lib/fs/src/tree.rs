//! A file tree in memory, neutral to the file system it will be written as.
//!
//! Several roots share one arena, so that a layer is read under a root of its own and its subtrees
//! are then moved, not copied, under the merged root. Nodes are names; inodes are what they name.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::xattr::{XattrId, Xattrs};

pub(crate) const S_IFIFO: u16 = 0o010_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;

/// The name masks the same name in lower layers; there is no inode.
pub(crate) const MASK: u8 = 1;
/// A directory that only carries masks of a layer and does not exist by itself; no inode.
pub(crate) const GHOST: u8 = 2;
/// A directory no layer has described yet: a lower layer may still give its attributes.
pub(crate) const IMPLIED: u8 = 4;
/// Lower layers add no children.
pub(crate) const OPAQUE: u8 = 8;
/// Lower layers add nothing at all, not even attributes.
pub(crate) const SEALED: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InodeId(u32);

impl NodeId {
    const NONE: NodeId = NodeId(u32::MAX);
}

impl InodeId {
    pub(crate) const NONE: InodeId = InodeId(u32::MAX);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bytes in the arena of names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    start: u32,
    len: u32,
}

/// A slice of the data area's list of extents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extents {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    Directory(Extents),
    File(Extents),
    Symlink(Text),
    Device {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// A file whose content was skipped, because layers above hide all its names.
    Unread,
    /// A hardlink whose target is in a layer not read yet.
    Pending,
    /// A hardlink whose target was found.
    Alias(InodeId),
}

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    /// Seconds since the epoch; may be negative.
    pub(crate) seconds: i64,
    /// Bytes of a file or target.
    pub(crate) size: u64,
    pub(crate) content: Content,
    pub(crate) nanos: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) xattrs: XattrId,
    /// Names that refer to it, aliases included.
    pub(crate) refs: u32,
    /// Type and permission bits as in `st_mode`.
    pub(crate) mode: u16,
}

struct Node {
    parent: NodeId,
    first_child: NodeId,
    next: NodeId,
    inode: InodeId,
    name: u32,
    name_len: u8,
    flags: u8,
}

/// No more names, or no more room for them, than 32 bits can count.
#[derive(Debug)]
pub(crate) struct Full;

#[derive(Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    inodes: Vec<Inode>,
    text: Vec<u8>,
    /// Nodes by parent and name. The hash is keyed at random against crafted collisions; nothing
    /// depends on the order of this table.
    index: HashTable<u32>,
    hasher: RandomState,
    pub(crate) xattrs: Xattrs,
    /// Extents of inodes that lost their last name.
    freed: Vec<Extents>,
}

impl Tree {
    pub(crate) fn new_root(&mut self) -> Result<NodeId, Full> {
        self.push_node(NodeId::NONE, b"", InodeId::NONE, GHOST)
    }

    pub(crate) fn node_count(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Bytes of names, targets and attributes kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.text.len() as u64 + self.xattrs.bytes
    }

    pub(crate) fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    pub(crate) fn name(&self, node: NodeId) -> &[u8] {
        let node = self.node(node);
        let start = node.name as usize;
        &self.text[start..start + node.name_len as usize]
    }

    pub(crate) fn text(&self, text: Text) -> &[u8] {
        &self.text[text.start as usize..][..text.len as usize]
    }

    pub(crate) fn add_text(&mut self, bytes: &[u8]) -> Result<Text, Full> {
        let start = u32::try_from(self.text.len()).map_err(|_| Full)?;
        let len = u32::try_from(bytes.len()).map_err(|_| Full)?;
        start.checked_add(len).ok_or(Full)?;
        self.text.extend_from_slice(bytes);
        Ok(Text { start, len })
    }

    pub(crate) fn flags(&self, node: NodeId) -> u8 {
        self.node(node).flags
    }

    pub(crate) fn has(&self, node: NodeId, flag: u8) -> bool {
        self.node(node).flags & flag != 0
    }

    pub(crate) fn set(&mut self, node: NodeId, flags: u8) {
        self.node_mut(node).flags |= flags;
    }

    pub(crate) fn clear(&mut self, node: NodeId, flags: u8) {
        self.node_mut(node).flags &= !flags;
    }

    /// The parent, or the node itself for a root.
    pub(crate) fn parent(&self, node: NodeId) -> NodeId {
        match self.node(node).parent {
            NodeId::NONE => node,
            parent => parent,
        }
    }

    /// Inode of a node after hardlinks; `NONE` for masks and ghosts.
    pub(crate) fn inode_of(&self, node: NodeId) -> InodeId {
        self.target(self.node(node).inode)
    }

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    pub(crate) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    pub(crate) fn is_directory(&self, node: NodeId) -> bool {
        let inode = self.node(node).inode;
        inode != InodeId::NONE && matches!(self.inode(inode).content, Content::Directory(_))
    }

    /// Neither mask nor ghost.
    pub(crate) fn exists(&self, node: NodeId) -> bool {
        self.node(node).inode != InodeId::NONE
    }

    pub(crate) fn symlink(&self, node: NodeId) -> Option<Text> {
        let inode = self.inode_of(node);
        if inode == InodeId::NONE {
            return None;
        }
        match self.inode(inode).content {
            Content::Symlink(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn add_inode(&mut self, inode: Inode) -> Result<InodeId, Full> {
        let id = u32::try_from(self.inodes.len()).map_err(|_| Full)?;
        if id == u32::MAX {
            return Err(Full);
        }
        self.inodes.push(inode);
        Ok(InodeId(id))
    }

    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = self.hasher.hash_one((parent.0, name));
        self.index
            .find(hash, |&id| {
                self.node(NodeId(id)).parent == parent && self.name(NodeId(id)) == name
            })
            .map(|&id| NodeId(id))
    }

    /// Adds a name that is not there yet. `name` has at most 255 bytes.
    pub(crate) fn attach(
        &mut self,
        parent: NodeId,
        name: &[u8],
        inode: InodeId,
        flags: u8,
    ) -> Result<NodeId, Full> {
        let id = self.push_node(parent, name, inode, flags)?;
        self.retain(inode);
        self.link(id, parent);
        Ok(id)
    }

    /// Gives a node another inode (or none) and drops the old one.
    pub(crate) fn set_inode(&mut self, node: NodeId, inode: InodeId) {
        self.retain(inode);
        let old = std::mem::replace(&mut self.node_mut(node).inode, inode);
        self.release(old);
    }

    /// Takes all children off a directory; each must then be moved or dropped.
    pub(crate) fn take_children(&mut self, parent: NodeId) -> Vec<NodeId> {
        let mut children = Vec::new();
        let mut next = std::mem::replace(&mut self.node_mut(parent).first_child, NodeId::NONE);
        while next != NodeId::NONE {
            children.push(next);
            self.unlink(next);
            next = self.node(next).next;
        }
        children
    }

    /// Puts a taken node, with all below it, under another directory.
    pub(crate) fn adopt(&mut self, node: NodeId, parent: NodeId) {
        self.link(node, parent);
    }

    /// Drops what is below a directory, but not the directory.
    pub(crate) fn drop_children(&mut self, parent: NodeId) {
        let mut doomed = self.take_children(parent);
        while let Some(node) = doomed.pop() {
            doomed.extend(self.take_children(node));
            self.set_inode(node, InodeId::NONE);
        }
    }

    /// Drops a taken node and all below it.
    pub(crate) fn drop_taken(&mut self, node: NodeId) {
        self.drop_children(node);
        self.set_inode(node, InodeId::NONE);
    }

    /// Children that exist, by name.
    pub(crate) fn sorted_children(&self, parent: NodeId) -> Vec<NodeId> {
        let mut children = Vec::new();
        let mut next = self.node(parent).first_child;
        while next != NodeId::NONE {
            if self.exists(next) {
                children.push(next);
            }
            next = self.node(next).next;
        }
        children.sort_unstable_by(|&a, &b| self.name(a).cmp(self.name(b)));
        children
    }

    /// Path from the node's root, without a leading slash.
    pub(crate) fn path(&self, node: NodeId) -> Vec<u8> {
        let mut chain = Vec::new();
        let mut at = node;
        while self.node(at).parent != NodeId::NONE {
            chain.push(at);
            at = self.node(at).parent;
        }
        let mut path = Vec::new();
        for &node in chain.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(self.name(node));
        }
        path
    }

    /// Lets `from`, a pending hardlink, stand for `to`.
    pub(crate) fn alias(&mut self, from: InodeId, to: InodeId) {
        let to = self.target(to);
        if from == to {
            return;
        }
        let refs = self.inode(from).refs;
        self.inode_mut(from).content = Content::Alias(to);
        self.inode_mut(to).refs += refs;
    }

    /// Extents that belong to nobody any more since the last call.
    pub(crate) fn take_freed(&mut self) -> Vec<Extents> {
        std::mem::take(&mut self.freed)
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    fn push_node(
        &mut self,
        parent: NodeId,
        name: &[u8],
        inode: InodeId,
        flags: u8,
    ) -> Result<NodeId, Full> {
        let id = u32::try_from(self.nodes.len()).map_err(|_| Full)?;
        let name_len = u8::try_from(name.len()).map_err(|_| Full)?;
        if id == u32::MAX {
            return Err(Full);
        }
        let name = self.add_text(name)?.start;
        self.nodes.push(Node {
            parent,
            first_child: NodeId::NONE,
            next: NodeId::NONE,
            inode,
            name,
            name_len,
            flags,
        });
        Ok(NodeId(id))
    }

    fn hash(&self, node: NodeId) -> u64 {
        self.hasher
            .hash_one((self.node(node).parent.0, self.name(node)))
    }

    fn link(&mut self, id: NodeId, parent: NodeId) {
        let first = std::mem::replace(&mut self.node_mut(parent).first_child, id);
        let node = self.node_mut(id);
        node.parent = parent;
        node.next = first;
        let hash = self.hash(id);
        let mut index = std::mem::take(&mut self.index);
        index.insert_unique(hash, id.0, |&other| self.hash(NodeId(other)));
        self.index = index;
    }

    fn unlink(&mut self, id: NodeId) {
        let hash = self.hash(id);
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == id.0) {
            entry.remove();
        }
    }

    pub(crate) fn target(&self, mut id: InodeId) -> InodeId {
        while id != InodeId::NONE {
            match self.inode(id).content {
                Content::Alias(to) => id = to,
                _ => break,
            }
        }
        id
    }

    pub(crate) fn retain(&mut self, id: InodeId) {
        let id = self.target(id);
        if id != InodeId::NONE {
            self.inode_mut(id).refs += 1;
        }
    }

    pub(crate) fn release(&mut self, id: InodeId) {
        let id = self.target(id);
        if id == InodeId::NONE {
            return;
        }
        let inode = self.inode_mut(id);
        inode.refs -= 1;
        if inode.refs == 0
            && let Content::File(extents) = inode.content
        {
            inode.content = Content::File(Extents::default());
            if extents.count > 0 {
                self.freed.push(extents);
            }
        }
    }
}
