//! Files out of the guest: named ones only, each checked against what was asked for and announced.

use std::collections::HashSet;
use std::io::{Read, Write};

use banger_tree::session::Client;
use banger_tree::{Chunk, Kind, Limits, Name, Reader, Step, TreeError};

/// What arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// A file; its content follows.
    File {
        /// As announced, in bytes.
        size: u64,
        /// Permissions.
        mode: u32,
    },
    /// A link and where it leads.
    Symlink(Vec<u8>),
}

/// The content of the file that came last.
pub(crate) struct Content<'r, R> {
    reader: &'r mut Reader<R>,
    size: u64,
    taken: u64,
}

impl<R: Read> Content<'_, R> {
    /// Gives each piece to `take`; returns how many bytes there were.
    ///
    /// # Errors
    /// More than was announced; those of the stream and of `take`.
    pub(crate) fn each(
        &mut self,
        take: &mut dyn FnMut(&[u8]) -> Result<(), TreeError>,
    ) -> Result<u64, TreeError> {
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        let longer = || TreeError::Refused("a file is longer than the guest had said".to_owned());
        loop {
            match self.reader.chunk()? {
                Chunk::Data(bytes) => {
                    self.taken += bytes.len() as u64;
                    if self.taken > self.size {
                        return Err(longer());
                    }
                    take(bytes)?;
                }
                Chunk::Hole(mut length) => {
                    self.taken = self.taken.saturating_add(length);
                    if self.taken > self.size {
                        return Err(longer());
                    }
                    while length > 0 {
                        let count = length.min(ZEROS.len() as u64);
                        take(&ZEROS[..count as usize])?;
                        length -= count;
                    }
                }
                Chunk::End => return Ok(self.taken),
            }
        }
    }
}

/// Asks for files, in the order of their bytes and no more than fit into a request; `take` gets each that
/// is there. At most `most` bytes are taken of all together.
///
/// # Errors
/// [`TreeError::Refused`] for what was not asked for, and for more than `most`; those of the stream.
pub(crate) fn fetch<S: Read + Write>(
    client: &mut Client<S>,
    paths: &[Vec<u8>],
    most: u64,
    mut take: impl FnMut(&[u8], Fetched, &mut Content<'_, &mut S>) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let asked: HashSet<&[u8]> = paths.iter().map(Vec::as_slice).collect();
    let limits = Limits {
        entries: 4096 * (paths.len() as u64 + 1),
        bytes: most,
    };
    let mut reader = client.fetch(paths, limits)?;
    let mut at: Vec<Name> = Vec::new();
    let mut left = most;
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    loop {
        match reader.next_step()? {
            Step::Entry(entry) => {
                at.push(entry.name.clone());
                let path = banger_tree::session::path_bytes(&at);
                let what = match entry.kind {
                    // On the way to a file, or become one.
                    Kind::Directory { .. } => continue,
                    Kind::File { size } => Fetched::File {
                        size,
                        mode: entry.mode,
                    },
                    Kind::Symlink { target } => Fetched::Symlink(target),
                    Kind::Hardlink { .. } | Kind::Fifo => {
                        return Err(TreeError::Refused("something that is no file".to_owned()));
                    }
                };
                if !asked.contains(&path[..]) || !seen.insert(path.clone()) {
                    return Err(TreeError::Refused(
                        "a file that was not asked for".to_owned(),
                    ));
                }
                let size = match &what {
                    Fetched::File { size, .. } => *size,
                    Fetched::Symlink(target) => target.len() as u64,
                };
                left = left
                    .checked_sub(size)
                    .ok_or_else(|| TreeError::Refused(TOO_MUCH.to_owned()))?;
                let is_file = matches!(what, Fetched::File { .. });
                let mut content = Content {
                    reader: &mut reader,
                    size,
                    taken: 0,
                };
                take(&path, what, &mut content)?;
                if is_file {
                    // What `take` had no use for.
                    content.each(&mut |_| Ok(()))?;
                }
                at.pop();
            }
            Step::Leave => {
                at.pop();
            }
            // It is missed by who asked for it.
            Step::Problem(_) => {}
            Step::Done => return Ok(()),
        }
    }
}

/// Why [`fetch`] stops at its limit.
pub(crate) const TOO_MUCH: &str = "more bytes than are taken";
