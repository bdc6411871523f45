//! Extended attributes: the first inode with a set has it behind its record, later ones refer to
//! the attributes in an area that all share. Kernel: Documentation/filesystems/erofs.rst,
//! "Extended attributes".

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::acl;
use crate::error::Fault;

/// Bytes of the header before an inode's own attributes.
pub(super) const HEADER: usize = 12;
/// References that the header can count.
const MOST_SHARED: usize = u8::MAX as usize;
/// Words that an inode's record can count.
const MOST_BYTES: usize = u16::MAX as usize * 4;

const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

/// One set of attributes in the form it is stored in.
pub(super) struct Set {
    /// One encoded entry for each attribute.
    entries: Vec<Vec<u8>>,
    /// Attributes without a namespace that Linux knows were left out.
    pub(super) dropped: bool,
}

/// Encodes a set; a name given twice has the later value.
///
/// # Errors
/// For what no file system can hold.
pub(super) fn encode<'a>(
    attributes: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Set, Fault> {
    let sorted: BTreeMap<&[u8], &[u8]> = attributes.collect();
    let mut set = Set {
        entries: Vec::new(),
        dropped: false,
    };
    for (name, value) in sorted {
        let prefix = PREFIXES
            .iter()
            .find_map(|(prefix, index)| Some((name.strip_prefix(*prefix)?, *index)));
        let (name, index) = match (prefix, name) {
            (Some((b"", _)), _) => return Err(Fault::XattrName),
            (Some(found), _) => found,
            (None, acl::ACCESS | acl::DEFAULT) => {
                if !acl::says_something(name, &acl::parse(value)?) {
                    continue;
                }
                let access = name == acl::ACCESS;
                (&b""[..], if access { ACL_ACCESS } else { ACL_DEFAULT })
            }
            (None, _) => {
                set.dropped = true;
                continue;
            }
        };
        let size = u16::try_from(value.len()).map_err(|_| Fault::XattrSize)?;
        let mut entry = vec![name.len() as u8, index];
        entry.extend_from_slice(&size.to_le_bytes());
        entry.extend_from_slice(name);
        entry.extend_from_slice(value);
        entry.resize(entry.len().next_multiple_of(4), 0);
        set.entries.push(entry);
    }
    let bytes: usize = set.entries.iter().map(Vec::len).sum();
    match bytes > MOST_BYTES - HEADER {
        true => Err(Fault::XattrSize),
        false => Ok(set),
    }
}

/// Attributes that several inodes have.
#[derive(Default)]
pub(super) struct Shared {
    /// The area.
    pub(super) bytes: Vec<u8>,
    /// Word of the area where an entry is.
    at: HashMap<Vec<u8>, u32>,
    /// Sets that an inode has already.
    seen: HashSet<Vec<Vec<u8>>>,
}

impl Shared {
    /// What is behind the record of one more inode with this set. `short`: it must not be long.
    ///
    /// # Errors
    /// [`Fault::XattrSize`] for more than 255 attributes that must be short.
    pub(super) fn place(&mut self, set: Set, short: bool) -> Result<Vec<u8>, Fault> {
        if set.entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; HEADER];
        let countable = set.entries.len() <= MOST_SHARED;
        if short && !countable {
            return Err(Fault::XattrSize);
        }
        if short || countable && self.seen.contains(&set.entries) {
            bytes[4] = set.entries.len() as u8;
            for entry in set.entries {
                let word = self.share(entry)?;
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        } else {
            for entry in &set.entries {
                bytes.extend_from_slice(entry);
            }
            self.seen.insert(set.entries);
        }
        Ok(bytes)
    }

    fn share(&mut self, entry: Vec<u8>) -> Result<u32, Fault> {
        if let Some(&word) = self.at.get(&entry) {
            return Ok(word);
        }
        let word = u32::try_from(self.bytes.len() / 4).map_err(|_| Fault::XattrSize)?;
        self.bytes.extend_from_slice(&entry);
        self.at.insert(entry, word);
        Ok(word)
    }
}
