//! Where everything is. Every path comes from here, so that one flag or variable moves all of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lib_model::{ImageId, KernelId, OperationId, VmId, WorkspaceId};

use crate::StoreError;
use crate::runtime_dir::private_dir;

/// 107 bytes for a path (unix(7)), less `/control.sock`.
const LONGEST_SOCKET_DIRECTORY: usize = 94;

/// The directories of one store.
#[derive(Debug, Clone)]
pub struct Context {
    data: PathBuf,
    runtime: PathBuf,
    libexec: PathBuf,
    netd_socket: PathBuf,
    names_file: PathBuf,
}

impl Context {
    /// Resolves the directories from a flag and the environment; touches nothing.
    ///
    /// State: `--store`, `BANGER_STORE`, `$XDG_DATA_HOME/banger`, `~/.local/share/banger`.
    /// Sockets: `BANGER_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/banger`, `/tmp/banger-$UID`.
    /// Helpers: `BANGER_LIBEXEC_DIR`, `../libexec/banger` from the executable.
    /// The network's daemon: `BANGER_NETD_SOCKET`, `/run/banger/netd.sock`; its names: `BANGER_NAMES_FILE`,
    /// `/var/lib/banger/netd/names.json`.
    ///
    /// # Errors
    /// No home directory, or a relative path in a variable.
    pub fn from_environment(
        store: Option<&Path>,
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, StoreError> {
        let path = |name| match variable(name).filter(|v| !v.is_empty()).map(PathBuf::from) {
            Some(path) if path.is_absolute() => Ok(Some(path)),
            Some(path) => Err(StoreError::RelativePath {
                variable: name,
                value: path.to_string_lossy().into_owned(),
            }),
            None => Ok(None),
        };
        let data = if let Some(flag) = store {
            std::path::absolute(flag).map_err(crate::io_error("resolve", flag))?
        } else if let Some(data) = path("BANGER_STORE")? {
            data
        } else if let Some(data) = path("XDG_DATA_HOME")? {
            data.join("banger")
        } else {
            path("HOME")?
                .ok_or(StoreError::NoHome)?
                .join(".local/share/banger")
        };
        let runtime = if let Some(runtime) = path("BANGER_RUNTIME_DIR")? {
            runtime
        } else if let Some(runtime) = path("XDG_RUNTIME_DIR")? {
            runtime.join("banger")
        } else {
            PathBuf::from(format!("/tmp/banger-{}", nix::unistd::geteuid()))
        };
        let libexec = match path("BANGER_LIBEXEC_DIR")? {
            Some(libexec) => libexec,
            None => std::env::current_exe()
                .ok()
                .and_then(|exe| Some(exe.parent()?.parent()?.join("libexec/banger")))
                .unwrap_or_else(|| PathBuf::from("/usr/libexec/banger")),
        };
        let netd_socket =
            path("BANGER_NETD_SOCKET")?.unwrap_or_else(|| PathBuf::from("/run/banger/netd.sock"));
        let names_file = path("BANGER_NAMES_FILE")?
            .unwrap_or_else(|| PathBuf::from("/var/lib/banger/netd/names.json"));
        Ok(Context {
            data,
            runtime,
            libexec,
            netd_socket,
            names_file,
        })
    }

    /// Root of the store.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.data.join("banger.db")
    }

    /// What happened to VMs (`banger-journal`).
    pub fn journal(&self) -> PathBuf {
        self.data.join(banger_journal::FILE)
    }

    /// An OCI image layout that other tools can read (image-spec, image-layout.md).
    pub fn blobs(&self) -> PathBuf {
        self.data.join("blobs")
    }

    /// Directory of an image.
    pub fn image(&self, id: &ImageId) -> PathBuf {
        self.data.join("images").join(id.as_str())
    }

    /// The file system of an image.
    pub fn image_disk(&self, id: &ImageId) -> PathBuf {
        self.image(id).join("rootfs.img")
    }

    /// Directory of a kernel.
    pub fn kernel(&self, id: &KernelId) -> PathBuf {
        self.data.join("kernels").join(id.as_str())
    }

    /// Directory of a VM: disks, logs, locks.
    pub fn vm(&self, id: &VmId) -> PathBuf {
        self.data.join("vms").join(id.as_str())
    }

    /// Directory of a workspace, in its VM's: it goes with it.
    pub fn workspace(&self, vm: &VmId, id: &WorkspaceId) -> PathBuf {
        self.vm(vm).join("workspaces").join(id.as_str())
    }

    /// Made anew from what is in the store whenever something is missing.
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }

    /// The client's key for SSH, and our part of the user's configuration; made when first needed.
    pub fn ssh(&self) -> PathBuf {
        self.data.join("ssh")
    }

    /// Lock files; never removed.
    pub fn locks(&self) -> PathBuf {
        self.data.join("locks")
    }

    /// Held by the worker of an operation as long as it lives.
    pub fn operation_lock(&self, id: &OperationId) -> PathBuf {
        self.locks().join("operation").join(id.as_str())
    }

    /// Links into the host's Nix store, each called after the image that needs what it leads to.
    pub(crate) fn roots(&self) -> PathBuf {
        self.data.join("gcroots")
    }

    /// The link that keeps what an image was made of from Nix's garbage collector; it may be missing.
    pub fn image_root(&self, id: &ImageId) -> PathBuf {
        self.roots().join(id.as_str())
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.data.join("staging")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.data.join("trash")
    }

    /// Runtime directory of a VM, whether it exists or not. Short, because socket paths end at 107 bytes.
    pub fn vm_runtime(&self, id: &VmId) -> PathBuf {
        self.runtime.join(id.as_str())
    }

    /// Makes the runtime directory of a VM, and checks that no other user can reach into it.
    ///
    /// # Errors
    /// [`StoreError::UnsafeDirectory`] when somebody else made it first.
    pub fn make_vm_runtime(&self, id: &VmId) -> Result<PathBuf, StoreError> {
        let directory = self.vm_runtime(id);
        let length = directory.as_os_str().len();
        if length > LONGEST_SOCKET_DIRECTORY {
            let (path, limit) = (directory, LONGEST_SOCKET_DIRECTORY);
            return Err(StoreError::PathTooLong {
                path,
                length,
                limit,
            });
        }
        private_dir(&self.runtime)?;
        private_dir(&directory)?;
        Ok(directory)
    }

    /// A helper executable such as `banger-monitor`.
    pub fn helper(&self, name: &str) -> PathBuf {
        self.libexec.join(name)
    }

    /// Where the network's daemon listens.
    pub fn netd_socket(&self) -> &Path {
        &self.netd_socket
    }

    /// The names of VMs on the bridge, which the network's daemon writes.
    pub fn names_file(&self) -> &Path {
        &self.names_file
    }

    /// Makes the store's directories, private to the user.
    ///
    /// # Errors
    /// When one cannot be made or is not safe.
    pub(crate) fn make_directories(&self) -> Result<(), StoreError> {
        if let Some(parent) = self.data.parent() {
            std::fs::create_dir_all(parent).map_err(crate::io_error("create", parent))?;
        }
        private_dir(&self.data)?;
        for directory in [
            "images",
            "kernels",
            "vms",
            "blobs",
            "cache",
            "gcroots",
            "locks",
            "locks/vm",
            "locks/ws",
            "locks/operation",
            "staging",
            "trash",
        ] {
            private_dir(&self.data.join(directory))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(variables: &[(&str, &str)]) -> Result<Context, StoreError> {
        Context::from_environment(None, |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn directories_follow_the_environment() {
        let plain = context(&[("HOME", "/home/u")]).unwrap();
        assert_eq!(plain.data(), Path::new("/home/u/.local/share/banger"));
        let xdg = context(&[("XDG_DATA_HOME", "/d"), ("XDG_RUNTIME_DIR", "/r")]).unwrap();
        assert_eq!(
            (xdg.data(), &*xdg.runtime),
            (Path::new("/d/banger"), Path::new("/r/banger"))
        );
        let own = context(&[
            ("BANGER_STORE", "/s"),
            ("HOME", "/h"),
            ("BANGER_RUNTIME_DIR", "/q"),
        ])
        .unwrap();
        assert_eq!(
            (own.data(), &*own.runtime),
            (Path::new("/s"), Path::new("/q"))
        );
        assert!(matches!(context(&[]), Err(StoreError::NoHome)));
        assert!(matches!(
            context(&[("BANGER_STORE", "s")]),
            Err(StoreError::RelativePath { .. })
        ));
    }
}
