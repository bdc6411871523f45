//! Layers into one tree, topmost first, so that each file's data is written once.
//!
//! Every layer is read under a root of its own, by the rules of the OCI image-spec ("Image Layer
//! Filesystem Changeset") and in the order of its archive; whiteouts count against lower layers
//! only. Then its subtrees move under the merged root ([`stack`]). Where the specification is
//! silent, the result is what docker, podman and containerd get with overlayfs:
//!
//! * a leading `/` and `.` components are ignored, `..` is an error;
//! * a parent that is a symbolic link *of the same layer* is followed within the tree; a parent
//!   that is a symbolic link of a lower layer is replaced by an implied directory;
//! * implied parents are 0755, root:root, with [`Options::time`](crate::Options::time), unless a
//!   lower layer describes the directory;
//! * whiteouts create no directories, and names that begin with `.wh..wh.` (aufs) are ignored.

mod path;
mod stack;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::rc::Rc;

use crate::data::{Data, StreamError};
use crate::error::{Error, Fault, lossy};
use crate::tar::{Archive, Entry, Kind, TarError};
use crate::tree::{self, Content, Extents, Full, Inode, InodeId, NodeId, Tree};
use crate::xattr::XattrId;
use crate::{Attributes, Limits, Progress, Time};
pub(crate) use path::clean;
use path::{Found, Paths};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";
/// Bytes of content between two progress reports.
const REPORT: u64 = 4 << 20;

/// A hardlink whose target is below the layers read so far.
struct Pending {
    inode: InodeId,
    target: Vec<u8>,
    layer: Rc<str>,
    entry: Vec<u8>,
}

/// The merged tree so far.
pub(crate) struct Merge<'a, 'f> {
    pub(crate) tree: Tree,
    pub(crate) data: Data<'f>,
    /// Entries read.
    pub(crate) entries: u64,
    content: u64,
    reported: u64,
    layers: usize,
    root: Option<NodeId>,
    pending: Vec<Pending>,
    limits: &'a Limits,
    time: i64,
    progress: &'a dyn Fn(Progress),
}

/// The layer being read.
pub(crate) struct View {
    name: Rc<str>,
    root: NodeId,
    paths: Paths,
    pending: Vec<Pending>,
}

impl From<Full> for Error {
    fn from(_: Full) -> Self {
        Error::Limit {
            what: "names or bytes of names",
            limit: u64::from(u32::MAX),
        }
    }
}

impl<'a, 'f> Merge<'a, 'f> {
    pub(crate) fn new(
        data: Data<'f>,
        limits: &'a Limits,
        time: i64,
        progress: &'a dyn Fn(Progress),
    ) -> Self {
        Merge {
            tree: Tree::default(),
            data,
            entries: 0,
            content: 0,
            reported: 0,
            layers: 0,
            root: None,
            pending: Vec::new(),
            limits,
            time,
            progress,
        }
    }

    /// Reads one layer to the end of its stream and puts it below those before it.
    pub(crate) fn layer(&mut self, name: &str, stream: impl Read) -> Result<(), Error> {
        let mut view = self.view(name)?;
        let mut archive = Archive::new(stream);
        while let Some(mut entry) = archive.next().map_err(|e| tar_error(&view.name, e))? {
            self.entry(&mut view, &mut entry, &mut archive)?;
        }
        archive.drain().map_err(|e| tar_error(&view.name, e))?;
        self.close(view)
    }

    pub(crate) fn view(&mut self, name: &str) -> Result<View, Error> {
        let root = self.tree.new_root()?;
        Ok(View {
            name: name.into(),
            root,
            paths: Paths::new(root),
            pending: Vec::new(),
        })
    }

    /// Merges a layer that has been read.
    pub(crate) fn close(&mut self, view: View) -> Result<(), Error> {
        self.resolve_pending(view.root)?;
        self.pending.extend(view.pending);
        match self.root {
            None => self.root = Some(view.root),
            Some(root) => stack::merge(&mut self.tree, root, view.root),
        }
        self.reclaim();
        self.layers += 1;
        self.report();
        Ok(())
    }

    /// The root of the merged tree, after the last layer.
    pub(crate) fn finish(&mut self) -> Result<NodeId, Error> {
        if let Some(pending) = self.pending.first() {
            return Err(pending.dangling());
        }
        let root = match self.root {
            Some(root) => root,
            None => self.tree.new_root()?,
        };
        if !self.tree.exists(root) {
            let inode = self.implied()?;
            self.tree.set_inode(root, inode);
            self.tree.clear(root, tree::GHOST);
        }
        Ok(root)
    }

    fn entry<R: Read>(
        &mut self,
        view: &mut View,
        entry: &mut Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Error> {
        let layer = view.name.clone();
        self.count()?;
        let original = std::mem::take(&mut entry.path);
        let failed = |fault| fault_at(&layer, &original, fault);
        let path = path::clean(&original, self.limits.path_bytes).map_err(failed)?;
        let (parent, name) = path::split(&path);
        if name == OPAQUE {
            return self
                .mark_opaque(view, parent)
                .map_err(|e| e.at(&layer, &original));
        }
        if name.starts_with(AUFS)
            || path
                .split(|&b| b == b'/')
                .any(|part| part.starts_with(AUFS))
        {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return match hidden {
                b"" | b"." | b".." => Err(failed(Fault::Whiteout)),
                _ => self
                    .mask(view, parent, hidden)
                    .map_err(|e| e.at(&layer, &original)),
            };
        }
        if entry.kind == Kind::Hardlink {
            let target = path::clean(&entry.link, self.limits.path_bytes).map_err(failed)?;
            return self
                .hardlink(view, &path, &target)
                .map_err(|e| e.at(&layer, &original));
        }
        let attributes = Attributes {
            mode: entry.mode as u16,
            uid: u32::try_from(entry.uid).map_err(|_| failed(Fault::Owner))?,
            gid: u32::try_from(entry.gid).map_err(|_| failed(Fault::Owner))?,
            mtime: Time {
                seconds: entry.seconds,
                nanos: entry.nanos,
            },
            xattrs: std::mem::take(&mut entry.xattrs),
        };
        let content = match entry.kind {
            Kind::File => New::File(self.stream(view, &original, entry, archive)?),
            Kind::Symlink => New::Symlink(&entry.link),
            Kind::Directory => New::Directory,
            Kind::Fifo => New::Fifo,
            Kind::Device(block) => New::Device {
                block,
                major: u32::try_from(entry.major).map_err(|_| failed(Fault::Device))?,
                minor: u32::try_from(entry.minor).map_err(|_| failed(Fault::Device))?,
            },
            Kind::Hardlink => return Ok(()),
            Kind::Other(flag) => return Err(failed(Fault::Type(char::from(flag)))),
        };
        self.place(view, &path, &attributes, content)
            .map_err(|e| e.at(&layer, &original))
    }

    /// Writes the content of a file.
    fn stream<R: Read>(
        &mut self,
        view: &View,
        path: &[u8],
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(u64, Extents), Error> {
        let failed = |error| match error {
            StreamError::Read(error) => tar_error(&view.name, error),
            StreamError::Write(error) => Error::Write(error),
            StreamError::TooLarge => fault_at(&view.name, path, Fault::FileSize),
        };
        let whole = [(0, entry.size)];
        let pieces = entry.sparse.as_deref().unwrap_or(&whole);
        let stored = pieces.iter().map(|&(_, len)| len).sum();
        self.take_content(stored)?;
        let mut writer = self.data.begin(stored);
        for &(offset, len) in pieces {
            writer.seek(offset).map_err(failed)?;
            writer
                .copy(len, &mut |buffer| archive.read(buffer))
                .map_err(failed)?;
        }
        writer.finish(entry.size).map_err(failed)
    }

    /// Counts one entry against the limits.
    pub(crate) fn count(&mut self) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries || self.tree.node_count() > self.limits.entries {
            return Err(Error::Limit {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        Ok(())
    }

    /// Counts content against the limits.
    pub(crate) fn take_content(&mut self, bytes: u64) -> Result<(), Error> {
        self.content = self.content.saturating_add(bytes);
        if self.content > self.limits.content_bytes {
            return Err(Error::Limit {
                what: "bytes of content",
                limit: self.limits.content_bytes,
            });
        }
        if self.content - self.reported >= REPORT {
            self.report();
        }
        Ok(())
    }

    fn report(&mut self) {
        self.reported = self.content;
        (self.progress)(Progress {
            layers: self.layers,
            entries: self.entries,
            content_bytes: self.content,
        });
    }

    /// Puts an entry at a clean path; what was there in this layer goes.
    pub(crate) fn place(
        &mut self,
        view: &mut View,
        path: &[u8],
        attributes: &Attributes,
        content: New<'_>,
    ) -> Result<(), Refused> {
        let (content, kind, size) = match content {
            New::File((size, extents)) => (Content::File(extents), tree::S_IFREG, size),
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
        self.put(view, path, inode)
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
            Found::Node(node) => self.tree.inode_of(node),
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

    fn make_parent(&mut self, view: &mut View, path: &[u8]) -> Result<NodeId, Refused> {
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

    fn mask(&mut self, view: &mut View, parent: &[u8], name: &[u8]) -> Result<(), Refused> {
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

    fn mark_opaque(&mut self, view: &mut View, directory: &[u8]) -> Result<(), Refused> {
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

    fn implied(&mut self) -> Result<InodeId, Full> {
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

    /// Looks for the targets of hardlinks of upper layers in a layer just read.
    fn resolve_pending(&mut self, root: NodeId) -> Result<(), Error> {
        let mut left = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            match path::find_below(&self.tree, root, &pending.target) {
                path::Below::Node(node) => {
                    let target = self.tree.inode_of(node);
                    self.tree.alias(pending.inode, target);
                }
                path::Below::Directory => {
                    let fault = Fault::LinkToDirectory(lossy(&pending.target));
                    return Err(fault_at(&pending.layer, &pending.entry, fault));
                }
                path::Below::Hidden => return Err(pending.dangling()),
                path::Below::Lower => left.push(pending),
            }
        }
        self.pending = left;
        Ok(())
    }

    fn reclaim(&mut self) {
        for extents in self.tree.take_freed() {
            self.data.release(extents);
        }
    }
}

impl Pending {
    fn dangling(&self) -> Error {
        fault_at(
            &self.layer,
            &self.entry,
            Fault::Dangling(lossy(&self.target)),
        )
    }
}

/// What [`Merge::place`] puts into the tree.
pub(crate) enum New<'a> {
    File((u64, Extents)),
    Directory,
    Symlink(&'a [u8]),
    Fifo,
    Device { block: bool, major: u32, minor: u32 },
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

fn fault_at(layer: &str, entry: &[u8], fault: Fault) -> Error {
    Error::Entry {
        layer: layer.to_owned(),
        entry: lossy(entry),
        fault,
    }
}

fn tar_error(layer: &str, error: TarError) -> Error {
    let layer = layer.to_owned();
    match error {
        TarError::Read(source) => Error::Read { layer, source },
        TarError::NotTar(reason) => Error::NotTar { layer, reason },
        TarError::Damaged(offset, reason) => Error::Damaged {
            layer,
            offset,
            reason,
        },
    }
}
