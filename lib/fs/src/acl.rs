//! POSIX ACLs in the form of extended attributes: acl(5) as getxattr(2) returns it, version 2 and
//! eight bytes an entry.

use crate::error::Fault;

pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const USER: u16 = 0x02;
const GROUP: u16 = 0x08;
/// No more than this makes sense, and no less would be refused by ext4.
const MOST: usize = 4096;

/// One entry.
pub(crate) struct Entry<'a> {
    /// Tag, permissions and id as they are stored.
    pub(crate) raw: &'a [u8],
    /// Whether the id means anything.
    pub(crate) has_id: bool,
}

/// The entries of an ACL.
///
/// # Errors
/// [`Fault::Acl`] for what the kernel would not take.
pub(crate) fn parse(value: &[u8]) -> Result<Vec<Entry<'_>>, Fault> {
    let Some((version, entries)) = value.split_at_checked(4) else {
        return Err(Fault::Acl);
    };
    if version != 2u32.to_le_bytes() || entries.len() % 8 != 0 || value.len() > MOST {
        return Err(Fault::Acl);
    }
    entries
        .chunks_exact(8)
        .map(|raw| {
            let tag = u16::from_le_bytes([raw[0], raw[1]]);
            let has_id = matches!(tag, USER | GROUP);
            let known = has_id || matches!(tag, 0x01 | 0x04 | 0x10 | 0x20);
            match known && u16::from_le_bytes([raw[2], raw[3]]) <= 7 {
                true => Ok(Entry { raw, has_id }),
                false => Err(Fault::Acl),
            }
        })
        .collect()
}

/// Whether an ACL says more than the mode does, or is a directory's default.
pub(crate) fn says_something(name: &[u8], entries: &[Entry<'_>]) -> bool {
    !entries.is_empty() && (name == DEFAULT || entries.len() != 3)
}
