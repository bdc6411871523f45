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

mod hidden;
mod path;
mod place;
mod stack;
#[cfg(test)]
mod tests;

use std::io::BufRead;
use std::rc::Rc;

use crate::data::{Data, StreamError};
use crate::error::{Error, Fault, lossy};
use crate::tar::{Archive, Entry, Kind, TarError};
use crate::tree::{self, Extents, Full, InodeId, NodeId, Tree};
use crate::{Attributes, Layer, Limits, Progress, Time};
use hidden::Skipped;
use path::Paths;
pub(crate) use path::clean;
pub(crate) use place::{New, Refused};

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
    /// Files whose content was skipped; `None` when it must not be.
    skipped: Option<Skipped>,
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
    pub(crate) fn layer(&mut self, layer: &mut Layer<'_>) -> Result<(), Error> {
        let mut view = self.view(&layer.name)?;
        if layer.again && self.root.is_some() {
            view.skipped = Some(Skipped::new(&self.pending, self.entries));
        }
        let mut archive = open(layer)?;
        while let Some(mut entry) = archive.next().map_err(|e| tar_error(&view.name, e))? {
            self.entry(&mut view, &mut entry, &mut archive)?;
        }
        archive.drain().map_err(|e| tar_error(&view.name, e))?;
        if view.skipped.as_ref().is_some_and(Skipped::has_wanted) {
            self.read_wanted(&mut view, open(layer)?)?;
        }
        self.close(view)
    }

    pub(crate) fn view(&mut self, name: &str) -> Result<View, Error> {
        let root = self.tree.new_root()?;
        Ok(View {
            name: name.into(),
            root,
            paths: Paths::new(root),
            pending: Vec::new(),
            skipped: None,
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

    fn entry<R: BufRead>(
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
        let attributes = attributes(entry).map_err(failed)?;
        let content = match entry.kind {
            Kind::File => {
                let hidden = self.is_hidden(view, &path);
                if hidden.map_err(|e| e.at(&layer, &original))? {
                    New::Unread(entry.size)
                } else {
                    New::File(self.stream(view, &original, entry, &attributes, archive)?)
                }
            }
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
        let unread = matches!(content, New::Unread(_));
        let inode = self
            .place(view, &path, &attributes, content)
            .map_err(|e| e.at(&layer, &original))?;
        if let (true, Some(skipped)) = (unread, &mut view.skipped) {
            skipped.add(self.entries, inode);
        }
        Ok(())
    }

    /// Writes the content of a file.
    fn stream<R: BufRead>(
        &mut self,
        view: &View,
        path: &[u8],
        entry: &Entry,
        attributes: &Attributes,
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
        let mut writer = self.data.begin(stored, entry.size, attributes);
        for &(offset, len) in pieces {
            writer.seek(offset).map_err(failed)?;
            let mut left = len;
            while left > 0 {
                let content = archive.content();
                let content = content.map_err(|error| failed(StreamError::Read(error)))?;
                // As long together as what is stored, which the map was checked for.
                let count = left.min(content.len() as u64) as usize;
                writer.write(&content[..count]).map_err(failed)?;
                archive.take(count);
                left -= count as u64;
            }
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
        if self.tree.bytes() > self.limits.metadata_bytes {
            return Err(Error::Limit {
                what: "bytes of names and attributes",
                limit: self.limits.metadata_bytes,
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

fn open<'a>(layer: &mut Layer<'a>) -> Result<Archive<Box<dyn BufRead + 'a>>, Error> {
    match (layer.open)() {
        Ok(stream) => Ok(Archive::new(stream)),
        Err(source) => Err(Error::Read {
            layer: layer.name.clone(),
            source,
        }),
    }
}

/// What an entry says of a file.
fn attributes(entry: &mut Entry) -> Result<Attributes, Fault> {
    Ok(Attributes {
        mode: entry.mode as u16,
        uid: u32::try_from(entry.uid).map_err(|_| Fault::Owner)?,
        gid: u32::try_from(entry.gid).map_err(|_| Fault::Owner)?,
        mtime: Time {
            seconds: entry.seconds,
            nanos: entry.nanos,
        },
        xattrs: std::mem::take(&mut entry.xattrs),
    })
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
