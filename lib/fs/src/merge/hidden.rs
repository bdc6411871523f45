//! Files that the layers above hide: their content is not written only to be given back.
//!
//! Whether such a file has another name, by a hardlink later in its layer, is not known when its
//! content comes. Then the layer is read a second time, for that content only.

use std::collections::HashSet;
use std::io::BufRead;

use super::path::split;
use super::place::Refused;
use super::{Merge, Pending, View, attributes, tar_error};
use crate::error::Error;
use crate::tar::Archive;
use crate::tree::{self, Content, InodeId, NodeId, Tree};

/// Where a directory is in the merged tree of the layers above.
#[derive(Clone, Copy, Debug)]
enum Above {
    /// They have nothing there.
    Nothing,
    /// A directory, or a place for whiteouts.
    Container(NodeId),
    /// They hide it with all that is below.
    Hidden,
}

/// What was skipped of one layer.
pub(super) struct Skipped {
    /// Number of the entry, and its file, in order.
    files: Vec<(u64, InodeId)>,
    /// Files whose content is needed all the same.
    wanted: HashSet<InodeId>,
    /// Targets of hardlinks of layers above: such names count although they are hidden.
    targets: HashSet<Vec<u8>>,
    /// The directory looked at last: archives list directories one after the other.
    last: Option<(NodeId, Above)>,
    first_entry: u64,
}

impl Skipped {
    pub(super) fn new(pending: &[Pending], entries: u64) -> Self {
        Skipped {
            files: Vec::new(),
            wanted: HashSet::new(),
            targets: pending.iter().map(|link| link.target.clone()).collect(),
            last: None,
            first_entry: entries,
        }
    }

    pub(super) fn add(&mut self, entry: u64, inode: InodeId) {
        self.files.push((entry - self.first_entry, inode));
    }

    pub(super) fn want(&mut self, inode: InodeId) {
        self.wanted.insert(inode);
    }

    pub(super) fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }
}

impl Merge<'_, '_> {
    /// Whether nobody will see this name of the layer being read, which may skip it.
    pub(super) fn is_hidden(&mut self, view: &mut View, path: &[u8]) -> Result<bool, Refused> {
        let (Some(root), Some(skipped)) = (self.root, &view.skipped) else {
            return Ok(false);
        };
        let (parent, name) = split(path);
        let last = skipped.last;
        let directory = self.make_parent(view, parent)?;
        let above = match last {
            Some((node, above)) if node == directory => above,
            _ => above(&self.tree, root, &self.tree.path(directory)),
        };
        let hidden = match above {
            Above::Nothing => false,
            Above::Hidden => true,
            Above::Container(node) => {
                closed(&self.tree, node)
                    || self
                        .tree
                        .child(node, name)
                        .is_some_and(|node| !self.tree.has(node, tree::GHOST))
            }
        };
        let Some(skipped) = &mut view.skipped else {
            return Ok(false);
        };
        skipped.last = Some((directory, above));
        if !hidden || skipped.targets.is_empty() {
            return Ok(hidden);
        }
        let mut path = self.tree.path(directory);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(!skipped.targets.contains(&path))
    }

    /// Reads a layer once more, for the content of files that have a name after all.
    pub(super) fn read_wanted<R: BufRead>(
        &mut self,
        view: &mut View,
        mut archive: Archive<R>,
    ) -> Result<(), Error> {
        let Some(skipped) = view.skipped.take() else {
            return Ok(());
        };
        let mut files = skipped.files.into_iter().peekable();
        let mut number = 0;
        while let Some(mut entry) = archive.next().map_err(|e| tar_error(&view.name, e))? {
            number += 1;
            let Some((_, inode)) = files.next_if(|&(skipped, _)| skipped == number) else {
                continue;
            };
            if !skipped.wanted.contains(&inode) || self.tree.inode(inode).refs == 0 {
                continue;
            }
            let path = std::mem::take(&mut entry.path);
            let attributes = attributes(&mut entry)
                .map_err(|fault| Refused::from(fault).at(&view.name, &path))?;
            let (size, extents) = self.stream(view, &path, &entry, &attributes, &mut archive)?;
            let file = self.tree.inode_mut(inode);
            file.content = Content::File(extents);
            file.size = size;
        }
        archive.drain().map_err(|e| tar_error(&view.name, e))
    }
}

fn above(tree: &Tree, root: NodeId, path: &[u8]) -> Above {
    let mut at = root;
    for name in path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
    {
        if closed(tree, at) {
            return Above::Hidden;
        }
        match tree.child(at, name) {
            None => return Above::Nothing,
            Some(node) if tree.is_directory(node) || tree.has(node, tree::GHOST) => at = node,
            Some(_) => return Above::Hidden,
        }
    }
    Above::Container(at)
}

/// Whether lower layers add no names to a directory.
fn closed(tree: &Tree, node: NodeId) -> bool {
    tree.has(node, tree::OPAQUE | tree::SEALED)
}
