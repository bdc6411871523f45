//! One entry of a tree and its bytes on the wire: little-endian numbers, strings with their length.

use crate::error::{Result, TreeError, shown};

const LONGEST_NAME: usize = 255;
const LONGEST_TARGET: usize = 4095;
const MOST_XATTRS: usize = 256;

/// The name of an entry in its directory: any bytes but `/` and NUL, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Name {
    type Error = TreeError;

    fn try_from(bytes: &[u8]) -> Result<Name> {
        let lawful = !matches!(bytes, b"" | b"." | b"..")
            && bytes.len() <= LONGEST_NAME
            && !bytes.iter().any(|byte| matches!(byte, b'/' | 0));
        match lawful {
            true => Ok(Name(bytes.to_owned())),
            false => Err(TreeError::Refused(format!(
                "`{}` is no name of a file",
                shown(&bytes[..bytes.len().min(LONGEST_NAME)])
            ))),
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Its entries follow.
    Directory {
        /// Nothing is known about it but its name.
        implied: bool,
        /// Its entries belong into the target itself, if that is a directory (`cp -r dir/. target`).
        contents: bool,
    },
    /// Its content follows.
    File {
        /// In bytes, as it was when the sender looked.
        size: u64,
    },
    /// A symbolic link; never followed.
    Symlink {
        /// Where to; any bytes but NUL.
        target: Vec<u8>,
    },
    /// A further name of a file that came before.
    Hardlink {
        /// The names that lead to it from the top of the tree.
        to: Vec<Name>,
    },
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// In its directory.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-user-id, set-group-id and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// A directory that is only passed through.
    pub fn implied(name: Name) -> Entry {
        Entry {
            name,
            kind: Kind::Directory {
                implied: true,
                contents: false,
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (number, extra): (u8, u64) = match &self.kind {
            Kind::Directory { implied, contents } => {
                (0, u64::from(*implied) | u64::from(*contents) << 1)
            }
            Kind::File { size } => (1, *size),
            Kind::Symlink { .. } => (2, 0),
            Kind::Hardlink { to } => (3, to.len() as u64),
            Kind::Fifo => (4, 0),
        };
        out.push(number);
        out.extend_from_slice(&extra.to_le_bytes());
        for word in [self.mode, self.uid, self.gid, self.mtime.1] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.mtime.0.to_le_bytes());
        string(out, self.name.as_bytes());
        match &self.kind {
            Kind::Symlink { target } => string(out, target),
            Kind::Hardlink { to } => to.iter().for_each(|name| string(out, name.as_bytes())),
            Kind::Directory { .. } | Kind::File { .. } | Kind::Fifo => {}
        }
        out.extend_from_slice(&(self.xattrs.len() as u32).to_le_bytes());
        for (name, value) in &self.xattrs {
            string(out, name);
            string(out, value);
        }
    }

    /// Reads an entry that somebody hostile may have written.
    ///
    /// # Errors
    /// [`TreeError::Refused`] for a name, [`TreeError::Protocol`] for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Entry> {
        let mut bytes = Bytes(bytes);
        let number = bytes.take(1)?[0];
        let extra = u64::from_le_bytes(bytes.array()?);
        let mode = bytes.word()?;
        let uid = bytes.word()?;
        let gid = bytes.word()?;
        let nanoseconds = bytes.word()?;
        let seconds = i64::from_le_bytes(bytes.array()?);
        let name = Name::try_from(bytes.string()?)?;
        let kind = match number {
            0 if extra < 4 => Kind::Directory {
                implied: extra & 1 != 0,
                contents: extra & 2 != 0,
            },
            1 => Kind::File { size: extra },
            2 => Kind::Symlink {
                target: link_target(bytes.string()?)?,
            },
            3 if (1..=crate::MAX_DEPTH as u64 + 1).contains(&extra) => Kind::Hardlink {
                to: (0..extra)
                    .map(|_| Name::try_from(bytes.string()?))
                    .collect::<Result<_>>()?,
            },
            4 => Kind::Fifo,
            _ => return Err(TreeError::Protocol("an unknown kind of entry")),
        };
        if mode > 0o7777 || nanoseconds >= 1_000_000_000 {
            return Err(TreeError::Protocol("a mode or time that cannot be"));
        }
        let count = bytes.word()? as usize;
        if count > MOST_XATTRS {
            return Err(TreeError::Protocol("too many extended attributes"));
        }
        let xattrs = (0..count)
            .map(|_| Ok((bytes.string()?.to_owned(), bytes.string()?.to_owned())))
            .collect::<Result<_>>()?;
        if !bytes.0.is_empty() {
            return Err(TreeError::Protocol("bytes behind an entry"));
        }
        Ok(Entry {
            name,
            kind,
            mode,
            uid,
            gid,
            mtime: (seconds, nanoseconds),
            xattrs,
        })
    }
}

fn link_target(bytes: &[u8]) -> Result<Vec<u8>> {
    let lawful = !bytes.is_empty() && bytes.len() <= LONGEST_TARGET && !bytes.contains(&0);
    lawful
        .then(|| bytes.to_owned())
        .ok_or(TreeError::Protocol("a link target that cannot be"))
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(TreeError::Protocol("an entry that is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn word(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let length = self.word()? as usize;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = [b'x'; 256];
        for name in [&b""[..], b".", b"..", b"/", b"a/b", b"a\0b", &long] {
            assert!(Name::try_from(name).is_err(), "{}", name.escape_ascii());
        }
        for name in [&b"a"[..], b"...", b"\xff\n", b"-rf"] {
            assert_eq!(Name::try_from(name).unwrap().as_bytes(), name);
        }
    }

    fn name() -> impl Strategy<Value = Name> {
        prop::collection::vec(any::<u8>(), 1..20)
            .prop_filter_map("a name", |bytes| Name::try_from(&bytes[..]).ok())
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(
            name in name(), to in prop::collection::vec(name(), 1..5), mode in 0u32..0o10000,
            mtime in (any::<i64>(), 0u32..1_000_000_000), size in any::<u64>(), which in 0..5,
            xattrs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)), 0..3),
        ) {
            let kind = match which {
                0 => Kind::Directory { implied: size % 2 == 0, contents: size % 3 == 0 },
                1 => Kind::File { size },
                2 => Kind::Symlink { target: b"../../etc".to_vec() },
                3 => Kind::Hardlink { to },
                _ => Kind::Fifo,
            };
            let entry = Entry { name, kind, mode, uid: 7, gid: u32::MAX, mtime, xattrs };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(Entry::decode(&bytes).unwrap(), entry);
            for end in 0..bytes.len() {
                prop_assert!(Entry::decode(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::decode(&bytes);
        }
    }
}
