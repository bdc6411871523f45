//! Who asks: the kernel's word (unix(7), SO_PEERCRED), never the caller's.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::options::Options;
use crate::sys;

/// The process at the other end, as it was when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: i32,
    groups: Vec<u32>,
}

impl Peer {
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Peer> {
        let credentials = getsockopt(&socket, PeerCredentials)?;
        let mut groups = sys::peer_groups(&socket)?;
        groups.push(credentials.gid());
        Ok(Peer {
            uid: credentials.uid(),
            pid: credentials.pid(),
            groups,
        })
    }

    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// May ask at all.
    pub(crate) fn is_allowed(&self, options: &Options) -> bool {
        self.is_root()
            || options.uids.contains(&self.uid)
            || options.gids.iter().any(|gid| self.groups.contains(gid))
    }

    /// May see and change what this user made.
    pub(crate) fn owns(&self, uid: u32) -> bool {
        self.is_root() || self.uid == uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_who_is_named_may_ask() {
        let line = ["--allow-uid", "7", "--allow-group", "50"];
        let options = crate::options::parse(line.map(Into::into)).unwrap();
        let peer = |uid, groups: &[u32]| Peer {
            uid,
            pid: 1,
            groups: groups.to_vec(),
        };
        for (uid, groups, allowed) in [
            (0, &[0][..], true),
            (7, &[7], true),
            (8, &[8, 50], true),
            (8, &[8, 51, 7], false),
            (50, &[8], false),
        ] {
            assert_eq!(peer(uid, groups).is_allowed(&options), allowed, "{uid}");
        }
        assert!(peer(0, &[]).owns(9) && peer(9, &[]).owns(9) && !peer(8, &[0]).owns(9));
    }
}
