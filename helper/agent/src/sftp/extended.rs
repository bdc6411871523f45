//! OpenSSH's extensions (its PROTOCOL, section 4).

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs, statvfs};

use super::attributes::Attributes;
use super::error::Error;
use super::files::{Files, canonical, name, path};
use super::packet::{self, MAX_DATA, MAX_PACKET, Reader, kind, packet};
use crate::account;

/// Ids in one question for names.
const MAX_IDS: usize = 4096;

impl Files {
    /// Does what an extension asks for.
    ///
    /// # Errors
    /// As with other requests; unknown extensions are [`Error::Unsupported`].
    pub(super) fn extended(
        &mut self,
        id: u32,
        reader: &mut Reader<'_>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match reader.bytes()? {
            b"posix-rename@openssh.com" => fs::rename(path(reader)?, path(reader)?)?,
            b"hardlink@openssh.com" => fs::hard_link(path(reader)?, path(reader)?)?,
            b"fsync@openssh.com" => self.file(reader)?.sync_all()?,
            b"lsetstat@openssh.com" => {
                let path = path(reader)?;
                Attributes::read(reader)?.set(&path, false)?;
            }
            b"statvfs@openssh.com" => {
                let space = statvfs(&path(reader)?)?;
                return space_of(answers, id, &space);
            }
            b"fstatvfs@openssh.com" => {
                let space = fstatvfs(self.file(reader)?.as_fd())?;
                return space_of(answers, id, &space);
            }
            b"limits@openssh.com" => {
                packet(answers, kind::EXTENDED_REPLY, id, |bytes| {
                    let handles = 0;
                    for limit in [MAX_PACKET as u64, MAX_DATA as u64, MAX_DATA as u64, handles] {
                        packet::long(bytes, limit);
                    }
                });
                return Ok(());
            }
            b"expand-path@openssh.com" => {
                let expanded = canonical(&expand(&path(reader)?)?)?;
                name(answers, id, expanded.as_os_str());
                return Ok(());
            }
            b"users-groups-by-id@openssh.com" => return self.names_of(id, reader, answers),
            _ => return Err(Error::Unsupported),
        }
        packet::done(answers, id);
        Ok(())
    }

    fn names_of(
        &mut self,
        id: u32,
        reader: &mut Reader<'_>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let (uids, gids) = (ids(reader.bytes()?)?, ids(reader.bytes()?)?);
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        for uid in uids {
            packet::string(
                &mut users,
                self.names.user(uid).unwrap_or_default().as_bytes(),
            );
        }
        for gid in gids {
            packet::string(
                &mut groups,
                self.names.group(gid).unwrap_or_default().as_bytes(),
            );
        }
        packet(answers, kind::EXTENDED_REPLY, id, |bytes| {
            packet::string(bytes, &users);
            packet::string(bytes, &groups);
        });
        Ok(())
    }
}

fn ids(bytes: &[u8]) -> Result<Vec<u32>, Error> {
    let (numbers, rest) = bytes.as_chunks();
    if !rest.is_empty() || numbers.len() > MAX_IDS {
        return Err(Error::Message);
    }
    Ok(numbers
        .iter()
        .map(|four| u32::from_be_bytes(*four))
        .collect())
}

/// `~` and `~user` at the beginning.
fn expand(path: &Path) -> Result<PathBuf, Error> {
    let mut components = path.components();
    let first = components
        .next()
        .map(|first| first.as_os_str().to_string_lossy());
    let Some(user) = first.as_deref().and_then(|first| first.strip_prefix('~')) else {
        return Ok(path.to_owned());
    };
    let user = match user {
        "" => nix::unistd::getuid().to_string(),
        user => user.to_owned(),
    };
    let account = account::find(&user).map_err(|_| Error::System(nix::errno::Errno::ENOENT))?;
    Ok(Path::new(&account.home).join(components.as_path()))
}

fn space_of(answers: &mut Vec<u8>, id: u32, space: &Statvfs) -> Result<(), Error> {
    const READ_ONLY: u64 = 1;
    const NO_SET_UID: u64 = 2;
    let mut flags = 0;
    if space.flags().contains(FsFlags::ST_RDONLY) {
        flags |= READ_ONLY;
    }
    if space.flags().contains(FsFlags::ST_NOSUID) {
        flags |= NO_SET_UID;
    }
    packet(answers, kind::EXTENDED_REPLY, id, |bytes| {
        for number in [
            space.block_size(),
            space.fragment_size(),
            space.blocks(),
            space.blocks_free(),
            space.blocks_available(),
            space.files(),
            space.files_free(),
            space.files_available(),
            space.filesystem_id(),
            flags,
            space.name_max(),
        ] {
            packet::long(bytes, number);
        }
    });
    Ok(())
}
