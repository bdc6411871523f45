//! Paths within one layer: cleaning, walking and looking up. Nothing here touches the host.

use crate::error::Fault;
use crate::tree::{self, NodeId, Tree};

/// As many symbolic links as the kernel follows (path_resolution(7)).
const LINKS: u32 = 40;

/// Components joined by `/`: no leading slash, no `.`; an error for `..`. Empty is the root.
pub(crate) fn clean(path: &[u8], limit: u64) -> Result<Vec<u8>, Fault> {
    if path.len() as u64 > limit {
        return Err(Fault::PathTooLong(limit));
    }
    if path.contains(&0) {
        return Err(Fault::Nul);
    }
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(Fault::Parent),
            part if part.len() > 255 => return Err(Fault::NameTooLong),
            part => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(part);
            }
        }
    }
    Ok(clean)
}

/// Parent and last component of a clean path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Where a hardlink's target is.
pub(crate) enum Found {
    /// In this layer: anything that exists.
    Node(NodeId),
    /// Only a lower layer can have it, at this path.
    Below(Vec<u8>),
}

/// Where a pending target is, seen from one lower layer.
pub(crate) enum Below {
    Node(NodeId),
    Directory,
    /// This layer hides the path, so no lower one counts.
    Hidden,
    Lower,
}

/// Looks a path up literally: links of one layer are not followed in another.
pub(crate) fn find_below(tree: &Tree, root: NodeId, path: &[u8]) -> Below {
    let mut at = root;
    let mut masked = false;
    let mut parts = path.split(|&byte| byte == b'/').peekable();
    while let Some(name) = parts.next() {
        masked |= tree.has(at, tree::OPAQUE | tree::SEALED);
        let Some(node) = tree.child(at, name) else {
            return if masked { Below::Hidden } else { Below::Lower };
        };
        let last = parts.peek().is_none();
        let directory = tree.is_directory(node);
        if tree.has(node, tree::MASK) {
            return Below::Hidden;
        }
        if tree.has(node, tree::GHOST) {
            if last {
                return if masked { Below::Hidden } else { Below::Lower };
            }
        } else if last {
            return if directory {
                Below::Directory
            } else {
                Below::Node(node)
            };
        } else if !directory {
            return Below::Hidden;
        }
        at = node;
    }
    Below::Directory
}

/// One layer's directory structure, with the last parent remembered, as archives list a
/// directory's entries one after the other.
pub(crate) struct Paths {
    root: NodeId,
    last: Option<(Vec<u8>, NodeId)>,
}

impl Paths {
    pub(crate) fn new(root: NodeId) -> Self {
        Paths { root, last: None }
    }

    pub(crate) fn known(&self, path: &[u8]) -> Option<NodeId> {
        match &self.last {
            Some((last, node)) if last == path => Some(*node),
            _ => None,
        }
    }

    pub(crate) fn remember(&mut self, path: &[u8], node: NodeId) {
        let mut last = self.last.take().map(|(last, _)| last).unwrap_or_default();
        last.clear();
        last.extend_from_slice(path);
        self.last = Some((last, node));
    }

    /// To be called whenever a directory or link may have gone.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    pub(crate) fn walk(&self, path: &[u8]) -> Walk {
        Walk {
            root: self.root,
            at: self.root,
            path: path.to_vec(),
            position: 0,
            links: 0,
        }
    }

    /// Looks a clean path up, following this layer's links in its parents.
    pub(crate) fn find(&self, tree: &Tree, path: &[u8]) -> Result<Found, Fault> {
        let (parent, name) = split(path);
        let mut walk = self.walk(parent);
        let below = |from: NodeId, rest: &[&[u8]]| {
            let mut path = tree.path(from);
            for part in rest.iter().filter(|part| !part.is_empty()) {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
            Found::Below(path)
        };
        let directory = loop {
            match walk.step(tree)? {
                Step::Down => {}
                Step::None(first) => {
                    // `..` of a link's target past this point cannot be told without the layers
                    // below, and lower links are not followed.
                    let rest = clean(walk.rest(), u64::MAX)?;
                    return Ok(below(walk.at(), &[&first, &rest, name]));
                }
                Step::End => break walk.at(),
            }
        };
        if name.is_empty() {
            return Ok(Found::Node(directory));
        }
        match tree.child(directory, name) {
            Some(node) if tree.exists(node) => Ok(Found::Node(node)),
            _ => Ok(below(directory, &[name])),
        }
    }
}

/// One step of a walk.
pub(crate) enum Step {
    /// Into a directory, a ghost or a mask, or along a link.
    Down,
    /// The current directory has no such name.
    None(Vec<u8>),
    End,
}

/// A walk down one layer that follows its links and never leaves its root.
pub(crate) struct Walk {
    root: NodeId,
    at: NodeId,
    path: Vec<u8>,
    position: usize,
    links: u32,
}

impl Walk {
    pub(crate) fn at(&self) -> NodeId {
        self.at
    }

    pub(crate) fn enter(&mut self, node: NodeId) {
        self.at = node;
    }

    /// What is still to be walked.
    pub(crate) fn rest(&self) -> &[u8] {
        self.path.get(self.position..).unwrap_or_default()
    }

    pub(crate) fn step(&mut self, tree: &Tree) -> Result<Step, Fault> {
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return Ok(Step::End);
            }
            let len = rest
                .iter()
                .position(|&byte| byte == b'/')
                .unwrap_or(rest.len());
            let name = &rest[..len];
            let after = self.position + len + 1;
            match name {
                b"" | b"." => {}
                b".." => self.at = tree.parent(self.at),
                name => {
                    if name.len() > 255 {
                        return Err(Fault::NameTooLong);
                    }
                    let Some(node) = tree.child(self.at, name) else {
                        let name = name.to_vec();
                        self.position = after;
                        return Ok(Step::None(name));
                    };
                    if let Some(target) = tree.symlink(node) {
                        self.follow(tree.text(target), after)?;
                        return Ok(Step::Down);
                    }
                    if tree.exists(node) && !tree.is_directory(node) {
                        return Err(Fault::NotADirectory);
                    }
                    self.at = node;
                    self.position = after;
                    return Ok(Step::Down);
                }
            }
            self.position = after;
        }
    }

    fn follow(&mut self, target: &[u8], after: usize) -> Result<(), Fault> {
        self.links += 1;
        if self.links > LINKS {
            return Err(Fault::Loop);
        }
        let rest = self.path.get(after..).unwrap_or_default();
        let path = [target, b"/", rest].concat();
        if target.first() == Some(&b'/') {
            self.at = self.root;
        }
        self.path = path;
        self.position = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        let cases: &[(&str, Result<&str, Fault>)] = &[
            ("", Ok("")),
            ("./", Ok("")),
            ("/", Ok("")),
            ("a", Ok("a")),
            ("./a//b/./c/", Ok("a/b/c")),
            ("/etc/passwd", Ok("etc/passwd")),
            ("../a", Err(Fault::Parent)),
            ("a/../b", Err(Fault::Parent)),
            ("a/..", Err(Fault::Parent)),
            ("...", Ok("...")),
            ("a\0b", Err(Fault::Nul)),
        ];
        for (path, expected) in cases {
            let expected = expected.clone().map(|path| path.as_bytes().to_vec());
            assert_eq!(clean(path.as_bytes(), 4096), expected, "{path:?}");
        }
        assert_eq!(clean(&[b'a'; 256], 4096), Err(Fault::NameTooLong));
        assert_eq!(clean(b"a/b", 2), Err(Fault::PathTooLong(2)));
    }
}
