//! Puts the entries of one layer into its tree: files, hardlinks, implied parents and whiteouts.

use super::{Merge, Pending, View, fault_at, path};
use crate::Attributes;
use crate::error::{Error, Fault, lossy};
use crate::tree::{self, Content, Extents, Full, Inode, InodeId, NodeId};
use crate::xattr::XattrId;
use path::Found;

/// What [`Merge::place`] puts into the tree.
pub(crate) enum New<'a> {
    File((u64, Extents)),
    /// A file of so many bytes, whose content was skipped.
    Unread(u64),
    Directory,
    Symlink(&'a [u8]),
    Fifo,
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
}

/// A fault that does not know its entry yet, or an error that needs none.
#[derive(Debug)]
pub(crate) enum Refused {
    Fault(Fault),
    Error(Error),
}

impl Refused {
    pub(crate) fn at(self, layer: &str, entry: &[u8]) -> Error {
        match self {
            Refused::Fault(fault) => fault_at(layer, entry, fault),
            Refused::Error(error) => error,
        }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Refused::Fault(fault)
    }
}

impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        Refused::Error(full.into())
    }
}

impl Merge<'_, '_> {
    /// Puts an entry at a clean path; what was there in this layer goes.
    pub(crate) fn place(
        &mut self,
        view: &mut View,
        path: &[u8],
        attributes: &Attributes,
        content: New<'_>,
    ) -> Result<InodeId, Refused> {
        let (content, kind, size) = match content {
            New::File((size, extents)) => (Content::File(extents), tree::S_IFREG, size),
            New::Unread(size) => (Content::Unread, tree::S_IFREG, size),
            New::Directory => (Content::Directory(Extents::default()), tree::S_IFDIR, 0),
            New::Fifo => (Content::Fifo, tree::S_IFIFO, 0),
            New::Device {
                block,
                major,
                minor,
            } => {
                if major > 0xfff || minor > 0xf_ffff {
                    return Err(Fault::Device.into());
                }
                let kind = if block { tree::S_IFBLK } else { tree::S_IFCHR };
                (Content::Device { major, minor }, kind, 0)
            }
            New::Symlink(target) => {
                if target.is_empty() || target.len() > 4095 {
                    return Err(Fault::Target(target.len()).into());
                }
                if target.contains(&0) {
                    return Err(Fault::Nul.into());
                }
                let size = target.len() as u64;
                (
                    Content::Symlink(self.tree.add_text(target)?),
                    tree::S_IFLNK,
                    size,
                )
            }
        };
        let bad = |(name, _): &&(Vec<u8>, Vec<u8>)| {
            name.is_empty() || name.len() > 255 || name.contains(&0)
        };
        if attributes.xattrs.iter().find(bad).is_some() {
            return Err(Fault::XattrName.into());
        }
        // The kernel knows no other mode for links.
        let mode = if kind == tree::S_IFLNK {
            0o777
        } else {
            attributes.mode
        };
        let xattrs = self.tree.xattrs.intern(&attributes.xattrs);
        let inode = self.tree.add_inode(Inode {
            seconds: attributes.mtime.seconds,
            nanos: attributes.mtime.nanos.min(999_999_999),
            size,
            content,
            uid: attributes.uid,
            gid: attributes.gid,
            xattrs,
            refs: 0,
            mode: kind | mode & 0o7777,
        })?;
        self.put(view, path, inode)?;
        Ok(inode)
    }

    /// A second name for a file of this layer or one below.
    pub(crate) fn hardlink(
        &mut self,
        view: &mut View,
        path: &[u8],
        target: &[u8],
    ) -> Result<(), Refused> {
        if target.is_empty() {
            return Err(Fault::LinkToDirectory("/".into()).into());
        }
        let inode = match view.paths.find(&self.tree, target)? {
            Found::Node(node) if self.tree.is_directory(node) => {
                return Err(Fault::LinkToDirectory(lossy(target)).into());
            }
            Found::Node(node) => {
                let inode = self.tree.inode_of(node);
                if matches!(self.tree.inode(inode).content, Content::Unread)
                    && !self.is_hidden(view, path)?
                    && let Some(skipped) = &mut view.skipped
                {
                    skipped.want(inode);
                }
                inode
            }
            Found::Below(target) => {
                let inode = self.inode(Content::Pending, 0)?;
                let (layer, entry) = (view.name.clone(), path.to_vec());
                view.pending.push(Pending {
                    inode,
                    target,
                    layer,
                    entry,
                });
                inode
            }
        };
        self.put(view, path, inode)
    }

    fn put(&mut self, view: &mut View, path: &[u8], inode: InodeId) -> Result<(), Refused> {
        let (parent, name) = path::split(path);
        let directory = matches!(self.tree.inode(inode).content, Content::Directory(_));
        if name.is_empty() {
            if !directory {
                return Err(Fault::Root.into());
            }
            self.tree.set_inode(view.root, inode);
            self.tree.clear(view.root, tree::GHOST | tree::IMPLIED);
            return Ok(());
        }
        let parent = self.make_parent(view, parent)?;
        let Some(node) = self.tree.child(parent, name) else {
            self.tree.attach(parent, name, inode, 0)?;
            return Ok(());
        };
        // The new inode may be one of those about to lose their name.
        self.tree.retain(inode);
        let was_directory = self.tree.is_directory(node) || self.tree.has(node, tree::GHOST);
        if !directory {
            self.tree.drop_children(node);
            view.paths.forget();
        } else if !was_directory {
            // What the mask or file hid in lower layers stays hidden.
            self.tree.set(node, tree::SEALED);
            view.paths.forget();
        }
        self.tree
            .clear(node, tree::MASK | tree::GHOST | tree::IMPLIED);
        self.tree.set_inode(node, inode);
        self.tree.release(inode);
        self.reclaim();
        Ok(())
    }

    pub(super) fn make_parent(&mut self, view: &mut View, path: &[u8]) -> Result<NodeId, Refused> {
        if let Some(node) = view.paths.known(path) {
            return Ok(node);
        }
        let mut walk = view.paths.walk(path);
        loop {
            let node = walk.at();
            if self.tree.has(node, tree::MASK | tree::GHOST) {
                let inode = self.implied()?;
                self.tree.set_inode(node, inode);
                if self.tree.has(node, tree::MASK) {
                    self.tree.set(node, tree::SEALED);
                }
                self.tree.clear(node, tree::MASK | tree::GHOST);
                self.tree.set(node, tree::IMPLIED);
            }
            match walk.step(&self.tree)? {
                path::Step::Down => {}
                path::Step::None(name) => {
                    let inode = self.implied()?;
                    let node = self.tree.attach(node, &name, inode, tree::IMPLIED)?;
                    walk.enter(node);
                    if self.tree.node_count() > self.limits.entries {
                        return Err(Refused::Error(Error::Limit {
                            what: "entries",
                            limit: self.limits.entries,
                        }));
                    }
                }
                path::Step::End => {
                    view.paths.remember(path, node);
                    return Ok(node);
                }
            }
        }
    }

    pub(super) fn mask(
        &mut self,
        view: &mut View,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), Refused> {
        let Some(parent) = self.ghosts(view, parent)? else {
            return Ok(());
        };
        match self.tree.child(parent, name) {
            None => {
                self.tree.attach(parent, name, InodeId::NONE, tree::MASK)?;
            }
            Some(node) if self.tree.is_directory(node) => self.tree.set(node, tree::SEALED),
            Some(node) if self.tree.has(node, tree::GHOST) => {
                self.tree.drop_children(node);
                self.tree.clear(node, tree::GHOST | tree::OPAQUE);
                self.tree.set(node, tree::MASK);
                view.paths.forget();
            }
            Some(_) => {}
        }
        Ok(())
    }

    pub(super) fn mark_opaque(&mut self, view: &mut View, directory: &[u8]) -> Result<(), Refused> {
        if let Some(node) = self.ghosts(view, directory)? {
            self.tree.set(node, tree::OPAQUE);
        }
        Ok(())
    }

    /// The directory a whiteout is in, or `None` when this layer has something else there, which
    /// hides everything below already.
    fn ghosts(&mut self, view: &View, path: &[u8]) -> Result<Option<NodeId>, Refused> {
        let mut at = view.root;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            at = match self.tree.child(at, name) {
                None => self.tree.attach(at, name, InodeId::NONE, tree::GHOST)?,
                Some(node) if self.tree.is_directory(node) => node,
                Some(node) if self.tree.has(node, tree::GHOST) => node,
                Some(_) => return Ok(None),
            };
        }
        Ok(Some(at))
    }

    pub(super) fn implied(&mut self) -> Result<InodeId, Full> {
        self.inode(
            Content::Directory(Extents::default()),
            tree::S_IFDIR | 0o755,
        )
    }

    fn inode(&mut self, content: Content, mode: u16) -> Result<InodeId, Full> {
        self.tree.add_inode(Inode {
            seconds: self.time,
            nanos: 0,
            size: 0,
            content,
            uid: 0,
            gid: 0,
            xattrs: XattrId::default(),
            refs: 0,
            mode,
        })
    }
}
