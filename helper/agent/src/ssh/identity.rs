//! Whose keys open the door.

use std::path::PathBuf;

use banger_wire::config::Ssh;
use nix::unistd::{Gid, Uid};
use russh::keys::ssh_key::{PrivateKey, PublicKey, public::KeyData};

use crate::account::{self, Account};

/// The host's key, and the keys of those who may come in.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) host_key: PrivateKey,
    authorized: Vec<KeyData>,
}

impl Identity {
    /// A line that is no key lets nobody in; it was checked on the host.
    ///
    /// # Errors
    /// The host key is none.
    pub(super) fn parse(ssh: &Ssh) -> Result<Identity, String> {
        let host_key = PrivateKey::from_openssh(&ssh.host_key)
            .map_err(|error| format!("the host key: {error}"))?;
        let authorized = ssh
            .authorized_keys
            .iter()
            .filter_map(|line| Some(PublicKey::from_openssh(line).ok()?.key_data().clone()))
            .collect();
        Ok(Identity {
            host_key,
            authorized,
        })
    }

    /// Whether the owner of `key` may log in.
    pub(super) fn authorizes(&self, key: &PublicKey) -> bool {
        self.authorized.contains(key.key_data())
    }
}

/// The account of a name that a client gave: `user`, `uid`, or with a group, as in the image's own
/// configuration.
pub(super) fn account(user: &str) -> Option<Account> {
    if user.is_empty() {
        return None;
    }
    account::find(user).ok()
}

/// Makes this process the user's, for good.
///
/// # Errors
/// Those of setgroups(2), setgid(2), setuid(2).
pub(super) fn become_user(account: &Account) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    if nix::unistd::geteuid().is_root() {
        let groups = account.groups.iter().chain([&account.gid]);
        let groups: Vec<Gid> = groups.map(|gid| Gid::from_raw(*gid)).collect();
        nix::unistd::setgroups(&groups)?;
        nix::unistd::setgid(gid)?;
        nix::unistd::setuid(uid)?;
    } else if nix::unistd::geteuid() != uid {
        return Err(nix::errno::Errno::EPERM);
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let home = PathBuf::from(&account.home);
    nix::unistd::chdir(&home).or_else(|_| nix::unistd::chdir("/"))
}
