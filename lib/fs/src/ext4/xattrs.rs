//! Extended attributes in the inode and in a block of their own. Kernel documentation, ext4:
//! "Extended Attributes".

use super::layout::INODE_SIZE;
use crate::acl;
use crate::checksum::crc32c as checksum;
use crate::data::BLOCK;
use crate::error::Fault;
use crate::put::{put16, put32};

const MAGIC: u32 = 0xea02_0000;
/// Where attributes begin in an inode with 32 bytes of extra fields.
pub(super) const IN_INODE_AT: usize = 160;
const IN_INODE: usize = INODE_SIZE - IN_INODE_AT - 4;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// Inodes that may share one block.
pub(super) const SHARED: u32 = 1024;

const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

/// A set in the form it is stored in.
pub(super) struct Stored {
    /// The bytes behind the inode's extra fields, if any.
    pub(super) inode: Option<Box<[u8; INODE_SIZE - IN_INODE_AT]>>,
    /// The block without reference count and checksum, if any.
    pub(super) block: Option<Box<[u8; BLOCK]>>,
    /// Attributes without a namespace that Linux knows were left out.
    pub(super) dropped: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    index: u8,
    len: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    fn bytes(&self) -> usize {
        ENTRY + self.len.next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }

    /// Names and values count alike; over whole words of the value.
    fn hash(&self) -> u32 {
        let mut hash: u32 = 0;
        for &byte in &self.name {
            hash = hash.rotate_left(5) ^ u32::from(byte);
        }
        for chunk in self.value.chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(word);
        }
        hash
    }
}

/// Encodes a set: into the inode if it fits there, else into a block, else both.
pub(super) fn encode(set: &[crate::xattr::Attribute]) -> Result<Stored, Fault> {
    let mut attributes = Vec::new();
    let mut dropped = false;
    for (name, value) in set {
        match translate(name, value)? {
            Translated::Attribute(attribute) => attributes.push(attribute),
            Translated::Nothing => {}
            Translated::Unknown => dropped = true,
        }
    }
    attributes.sort();
    let (inside, outside) = place(attributes)?;
    let inode = (!inside.is_empty()).then(|| {
        let mut bytes = Box::new([0; INODE_SIZE - IN_INODE_AT]);
        put32(&mut bytes[..], 0, MAGIC);
        fill(&mut bytes[4..], &inside, 0, false);
        bytes
    });
    let block = (!outside.is_empty()).then(|| {
        let mut bytes = Box::new([0; BLOCK]);
        put32(&mut bytes[..], 0, MAGIC);
        put32(&mut bytes[..], 8, 1);
        let hashes = outside.iter().map(Attribute::hash);
        let folded = hashes
            .clone()
            .fold(0u32, |all, hash| all.rotate_left(16) ^ hash);
        // A zero anywhere means that the block is not to be shared.
        let hash = if hashes.clone().any(|hash| hash == 0) {
            0
        } else {
            folded
        };
        put32(&mut bytes[..], 12, hash);
        fill(&mut bytes[..], &outside, BLOCK_HEADER, true);
        bytes
    });
    Ok(Stored {
        inode,
        block,
        dropped,
    })
}

/// Completes a block with its reference count and checksum.
pub(super) fn seal(block: &mut [u8; BLOCK], references: u32, at: u64, seed: u32) {
    put32(block, 4, references);
    put32(block, 16, 0);
    let sum = checksum(checksum(seed, &at.to_le_bytes()), block);
    put32(block, 16, sum);
}

fn place(attributes: Vec<Attribute>) -> Result<(Vec<Attribute>, Vec<Attribute>), Fault> {
    // Four zero bytes end the list of entries.
    let total: usize = 4 + attributes.iter().map(Attribute::bytes).sum::<usize>();
    if total <= IN_INODE {
        return Ok((attributes, Vec::new()));
    }
    if total <= BLOCK - BLOCK_HEADER {
        return Ok((Vec::new(), attributes));
    }
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let (mut room, mut rest) = (IN_INODE - 4, BLOCK - BLOCK_HEADER - 4);
    for attribute in attributes {
        let bytes = attribute.bytes();
        if bytes <= room {
            room -= bytes;
            inside.push(attribute);
        } else {
            rest = rest.checked_sub(bytes).ok_or(Fault::XattrSize)?;
            outside.push(attribute);
        }
    }
    Ok((inside, outside))
}

/// Entries from `at` on, values from the end back.
fn fill(bytes: &mut [u8], attributes: &[Attribute], mut at: usize, hashed: bool) {
    let mut end = bytes.len();
    for attribute in attributes {
        let value = &attribute.value;
        end -= value.len().next_multiple_of(4);
        bytes[end..][..value.len()].copy_from_slice(value);
        bytes[at] = attribute.len as u8;
        bytes[at + 1] = attribute.index;
        put16(bytes, at + 2, if value.is_empty() { 0 } else { end as u16 });
        put32(bytes, at + 8, value.len() as u32);
        put32(bytes, at + 12, if hashed { attribute.hash() } else { 0 });
        bytes[at + ENTRY..][..attribute.len].copy_from_slice(&attribute.name);
        at += ENTRY + attribute.len.next_multiple_of(4);
    }
}

enum Translated {
    Attribute(Attribute),
    /// An ACL that says no more than the mode does.
    Nothing,
    Unknown,
}

fn translate(name: &[u8], value: &[u8]) -> Result<Translated, Fault> {
    for (prefix, index) in [(&b"user."[..], 1), (b"trusted.", 4), (b"security.", 6)] {
        if let Some(name) = name.strip_prefix(prefix) {
            if name.is_empty() {
                return Err(Fault::XattrName);
            }
            if value.len() > BLOCK {
                return Err(Fault::XattrSize);
            }
            let (name, value) = (name.to_vec(), value.to_vec());
            return Ok(Translated::Attribute(Attribute {
                index,
                len: name.len(),
                name,
                value,
            }));
        }
    }
    let index = match name {
        acl::ACCESS => ACL_ACCESS,
        acl::DEFAULT => ACL_DEFAULT,
        _ => return Ok(Translated::Unknown),
    };
    let entries = acl::parse(value)?;
    if !acl::says_something(name, &entries) {
        return Ok(Translated::Nothing);
    }
    // Version 1, and no id where none is meant.
    let mut value = 1u32.to_le_bytes().to_vec();
    for entry in &entries {
        value.extend_from_slice(if entry.has_id {
            entry.raw
        } else {
            &entry.raw[..4]
        });
    }
    Ok(Translated::Attribute(Attribute {
        index,
        len: 0,
        name: Vec::new(),
        value,
    }))
}
