//! Puts a layer's tree below the merged tree of the layers above it.

use crate::tree::{self, GHOST, IMPLIED, InodeId, MASK, NodeId, OPAQUE, SEALED, Tree};

/// Moves what is visible of `lower` under `upper` and drops the rest. Both are roots.
pub(crate) fn merge(tree: &mut Tree, upper: NodeId, lower: NodeId) {
    let mut todo = vec![(upper, lower)];
    while let Some((upper, lower)) = todo.pop() {
        let children = tree.take_children(lower);
        if tree.has(upper, SEALED) {
            children
                .into_iter()
                .for_each(|child| tree.drop_taken(child));
            tree.set_inode(lower, InodeId::NONE);
            continue;
        }
        take_attributes(tree, upper, lower);
        for child in children {
            if tree.has(upper, OPAQUE) {
                tree.drop_taken(child);
                continue;
            }
            let name = tree.name(child).to_vec();
            match tree.child(upper, &name) {
                None => tree.adopt(child, upper),
                Some(node) if is_container(tree, node) && is_container(tree, child) => {
                    todo.push((node, child));
                }
                Some(node) => {
                    cover(tree, node, child);
                    tree.drop_taken(child);
                }
            }
        }
        let closed = tree.flags(lower) & (OPAQUE | SEALED);
        tree.set(upper, closed);
        tree.set_inode(lower, InodeId::NONE);
    }
}

fn is_container(tree: &Tree, node: NodeId) -> bool {
    tree.is_directory(node) || tree.has(node, GHOST)
}

/// A directory no upper layer describes takes the lower one's attributes.
fn take_attributes(tree: &mut Tree, upper: NodeId, lower: NodeId) {
    let described = tree.flags(upper) & (GHOST | IMPLIED) == 0;
    let better = tree.has(upper, GHOST) || !tree.has(lower, IMPLIED);
    if described || tree.has(lower, GHOST) || !better {
        return;
    }
    let inode = tree.inode_of(lower);
    tree.set_inode(upper, inode);
    tree.clear(upper, GHOST | IMPLIED);
    let implied = tree.flags(lower) & IMPLIED;
    tree.set(upper, implied);
}

/// `child` is below `node` and at least one of them is no directory.
fn cover(tree: &mut Tree, node: NodeId, child: NodeId) {
    if !is_container(tree, node) {
        return;
    }
    if tree.is_directory(node) {
        tree.set(node, SEALED);
        return;
    }
    // A ghost only hides names inside a directory: what the lower layer has there stands.
    tree.drop_children(node);
    let inode = tree.inode_of(child);
    tree.set_inode(node, inode);
    let mask = tree.flags(child) & MASK;
    tree.clear(node, GHOST | tree::OPAQUE);
    tree.set(node, mask);
}
