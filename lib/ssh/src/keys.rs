//! The host key of each VM and the client key of the store, all ed25519.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use lib_model::VmId;
use lib_store::{Context, private_dir};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};

use crate::SshError;
use crate::error::io_error;

/// In a VM's directory: its SSH identity.
const DIRECTORY: &str = "ssh";
const HOST_KEY: &str = "host_key";
const KNOWN_HOSTS: &str = "known_hosts";
/// In the store's own directory.
const CLIENT_KEY: &str = "id_ed25519";

/// A VM's SSH identity.
#[derive(Clone)]
pub struct HostKey {
    /// The private key in OpenSSH's format.
    pub private: String,
    /// The public key: kind and base64, as known hosts have it.
    pub public: String,
    /// The file that pins it, under the VM's id.
    pub known_hosts: PathBuf,
}

/// The key that opens every VM of the store.
#[derive(Debug, Clone)]
pub struct ClientKey {
    /// The file of the private key.
    pub path: PathBuf,
    /// The public key, one line.
    pub public: String,
}

/// The host key in a VM's directory, made now if it has none. The caller holds `vm[id]`, or the directory
/// is staged.
///
/// # Errors
/// A directory that cannot be written; [`SshError::Damaged`].
pub fn host_key(directory: &Path, id: &VmId) -> Result<HostKey, SshError> {
    let directory = directory.join(DIRECTORY);
    let path = directory.join(HOST_KEY);
    if !path.exists() {
        private_dir(&directory)?;
        let key = generate(id.as_str(), &path)?;
        publish(&path, &key, |new, path| fs::rename(new, path))?;
    }
    let (private, public) = read(&path)?;
    let known_hosts = directory.join(KNOWN_HOSTS);
    let pin = format!("{id} {public}\n");
    if fs::read_to_string(&known_hosts).is_ok_and(|old| old == pin) {
        return Ok(HostKey {
            private,
            public,
            known_hosts,
        });
    }
    publish(&known_hosts, &pin, |new, path| fs::rename(new, path))?;
    Ok(HostKey {
        private,
        public,
        known_hosts,
    })
}

impl HostKey {
    /// The host key that a VM has, to look at.
    ///
    /// # Errors
    /// It has none, or a damaged one.
    pub fn existing(directory: &Path) -> Result<HostKey, SshError> {
        let directory = directory.join(DIRECTORY);
        let (private, public) = read(&directory.join(HOST_KEY))?;
        Ok(HostKey {
            private,
            public,
            known_hosts: directory.join(KNOWN_HOSTS),
        })
    }

    /// Where keys of the image's own SSH server are pinned when they are first seen.
    pub fn guest_known_hosts(directory: &Path) -> PathBuf {
        directory.join(DIRECTORY).join("guest_known_hosts")
    }
}

/// The store's client key, made at its first use; of two that make it at once, one wins.
///
/// # Errors
/// A store that cannot be written; [`SshError::Damaged`].
pub fn client_key(context: &Context) -> Result<ClientKey, SshError> {
    let directory = context.ssh();
    let path = directory.join(CLIENT_KEY);
    if !path.exists() {
        private_dir(&directory)?;
        let key = generate("banger", &path)?;
        publish(&path, &key, |new, path| match fs::hard_link(new, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(new),
            linked => linked.and_then(|()| fs::remove_file(new)),
        })?;
    }
    let (_, public) = read(&path)?;
    Ok(ClientKey {
        public: format!("{public} banger"),
        path,
    })
}

fn generate(comment: &str, path: &Path) -> Result<String, SshError> {
    let failed = |reason: String| io_error("make the key", path)(io::Error::other(reason));
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| failed(error.to_string()))?;
    let key = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(key, comment).map_err(|error| failed(error.to_string()))?;
    let text = key.to_openssh(LineEnding::LF);
    Ok(text.map_err(|error| failed(error.to_string()))?.to_string())
}

fn read(path: &Path) -> Result<(String, String), SshError> {
    let text = fs::read_to_string(path).map_err(io_error("read", path))?;
    let damaged = |error: ssh_key::Error| SshError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let key = PrivateKey::from_openssh(&text).map_err(damaged)?;
    let mut public = key.public_key().clone();
    public.set_comment("");
    let public = public.to_openssh().map_err(damaged)?;
    Ok((text, public.trim_end().to_owned()))
}

/// Writes a file of mode 0600 whole, synced, and puts it in its place.
fn publish(
    path: &Path,
    content: &str,
    place: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), SshError> {
    let mut random = [0; 8];
    let new = path.with_extension(match getrandom::fill(&mut random) {
        Ok(()) => format!("{:016x}.new", u64::from_ne_bytes(random)),
        Err(error) => return Err(io_error("name", path)(io::Error::other(error))),
    });
    let written = point("ssh.key")
        .and_then(|()| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| place(&new, path))
        .and_then(|()| match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        });
    written.map_err(|error| {
        // What is half-written is not there under its name.
        let _ = fs::remove_file(&new);
        io_error("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn id() -> VmId {
        VmId::try_from("a1b2c3d4e5f60718").unwrap()
    }

    #[test]
    fn a_vm_keeps_its_key_and_another_has_another() {
        let base = tempfile::tempdir().unwrap();
        let first = host_key(base.path(), &id()).unwrap();
        let again = host_key(base.path(), &id()).unwrap();
        assert_eq!(first.private, again.private);
        assert!(
            first.public.starts_with("ssh-ed25519 AAAA"),
            "{}",
            first.public
        );
        let pinned = fs::read_to_string(&first.known_hosts).unwrap();
        assert_eq!(pinned, format!("a1b2c3d4e5f60718 {}\n", first.public));
        for name in ["ssh/host_key", "ssh/known_hosts"] {
            let mode = fs::metadata(base.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        let left = fs::read_dir(base.path().join("ssh")).unwrap().count();
        assert_eq!(left, 2, "no temporary file stays");

        let other = tempfile::tempdir().unwrap();
        assert_ne!(host_key(other.path(), &id()).unwrap().public, first.public);
    }

    #[test]
    fn a_damaged_key_is_named_and_a_lost_pin_made_again() {
        let base = tempfile::tempdir().unwrap();
        let key = host_key(base.path(), &id()).unwrap();
        fs::remove_file(&key.known_hosts).unwrap();
        assert_eq!(host_key(base.path(), &id()).unwrap().public, key.public);
        assert!(key.known_hosts.exists());
        let path = base.path().join("ssh/host_key");
        fs::write(&path, "").unwrap();
        assert!(matches!(
            host_key(base.path(), &id()),
            Err(SshError::Damaged { .. })
        ));
    }

    #[test]
    fn many_that_make_the_client_key_get_the_same() {
        let base = tempfile::tempdir().unwrap();
        let store = base.path().join("s").into_os_string();
        let context = Context::from_environment(None, |name| match name {
            "BANGER_STORE" | "BANGER_RUNTIME_DIR" => Some(store.clone()),
            _ => None,
        })
        .unwrap();
        fs::create_dir(context.data()).unwrap();
        let keys: Vec<String> = std::thread::scope(|scope| {
            let made: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| client_key(&context).unwrap().public))
                .collect();
            made.into_iter().map(|key| key.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(fs::read_dir(context.ssh()).unwrap().count(), 1);
    }
}
