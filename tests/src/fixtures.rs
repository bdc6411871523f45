//! What is slow to make and made once: executables, kernel package, base image, prepared store.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::{Compression, Entry, Image, Layer, Sandbox};

/// Directories of the executables under test and of the fixtures.
#[derive(Debug, Clone)]
pub struct Fixtures {
    bin: PathBuf,
    directory: PathBuf,
}

impl Fixtures {
    /// Finds them by `BANGER_TEST_BIN_DIR` and `BANGER_TEST_FIXTURES`, else beside the running
    /// test (`<target>/<profile>/deps/…`).
    ///
    /// # Panics
    /// When something is missing; `cargo xtask test` makes it.
    pub fn find() -> Fixtures {
        let test = std::env::current_exe().expect("a process has an executable");
        let beside = |levels| test.ancestors().nth(levels).map(Path::to_owned);
        let bin = variable("BANGER_TEST_BIN_DIR").or_else(|| beside(2));
        let directory = variable("BANGER_TEST_FIXTURES")
            .or_else(|| beside(3).map(|target| target.join("fixtures")));
        let fixtures = Fixtures {
            bin: bin.expect("a test has a directory"),
            directory: directory.expect("a test has a directory"),
        };
        for needed in [
            fixtures.bin.join("banger-vm"),
            fixtures.libexec().join("banger-agent"),
            fixtures.kernel_package(),
        ] {
            assert!(
                needed.exists(),
                "{} is missing; run the tests with `cargo xtask test`",
                needed.display()
            );
        }
        fixtures
    }

    /// In a directory that `cargo xtask` fills.
    pub fn in_directory(bin: PathBuf, directory: PathBuf) -> Fixtures {
        Fixtures { bin, directory }
    }

    /// Where the executables are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Where the helpers are, by the rule of installed executables.
    pub fn libexec(&self) -> PathBuf {
        self.bin
            .parent()
            .unwrap_or(&self.bin)
            .join("libexec/banger")
    }

    /// The distribution's kernel package.
    pub fn kernel_package(&self) -> PathBuf {
        self.directory.join("linux-image.deb")
    }

    /// mise, which installs a workspace's tools in guests.
    pub fn mise(&self) -> PathBuf {
        self.directory.join("mise")
    }

    /// The distribution's `docker-registry`: unpacked here, or installed.
    pub fn registry_program(&self) -> PathBuf {
        let own = self
            .directory
            .join("docker-registry/usr/bin/docker-registry");
        if own.exists() {
            own
        } else {
            PathBuf::from("/usr/bin/docker-registry")
        }
    }

    /// umoci 0.6, the reference for what layers unpack to.
    pub fn umoci(&self) -> PathBuf {
        self.directory.join("umoci/usr/bin/umoci")
    }

    /// firewalld as its package has it; its library is installed.
    pub fn firewalld(&self) -> PathBuf {
        self.directory.join("firewalld")
    }

    /// What scripts of git's own tests leave, a directory for each script.
    pub fn git_repositories(&self) -> PathBuf {
        self.directory.join("git-repositories")
    }

    /// The directory of `nix` and its other names, 2.26, which needs nothing of the machine; see [`crate::Nix`].
    pub fn nix_programs(&self) -> PathBuf {
        self.directory.join("nix/usr/bin")
    }

    /// `lib` of nixpkgs and, in `nixpkgs`, its modules of 2022.
    pub fn nixpkgs_library(&self) -> PathBuf {
        self.directory.join("nixpkgs-library")
    }

    /// The packed base layer and, beside it, the digest of what is in it.
    pub fn base_layer(&self) -> (PathBuf, PathBuf) {
        (
            self.directory.join("debian.tar.gz"),
            self.directory.join("debian.diff-id"),
        )
    }

    /// As [`Fixtures::base_layer`], with systemd as init and with Docker.
    pub fn system_layer(&self) -> (PathBuf, PathBuf) {
        (
            self.directory.join("system.tar.gz"),
            self.directory.join("system.diff-id"),
        )
    }

    /// As [`Fixtures::base_layer`], a machine with systemd-resolved, NetworkManager and what banger-netd needs.
    pub fn host_layer(&self) -> (PathBuf, PathBuf) {
        (
            self.directory.join("host.tar.gz"),
            self.directory.join("host.diff-id"),
        )
    }

    /// Debian with systemd-resolved, where banger is installed as its units expect it. NetworkManager is not started.
    ///
    /// # Errors
    /// When `cargo xtask` has not made it.
    pub fn host(&self) -> io::Result<Image> {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../helper/netd/systemd");
        let mut entries = vec![
            Entry::Symlink(
                "etc/resolv.conf".into(),
                "/run/systemd/resolve/stub-resolv.conf".into(),
            ),
            Entry::File(
                "usr/bin/banger-net".into(),
                0o755,
                fs::read(self.bin.join("banger-net"))?,
            ),
            Entry::Directory("usr/libexec/banger/".into(), 0o755),
            Entry::File(
                "usr/libexec/banger/banger-netd".into(),
                0o755,
                fs::read(self.libexec().join("banger-netd"))?,
            ),
        ];
        for entry in fs::read_dir(&units)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let place = match path.extension().and_then(|kind| kind.to_str()) {
                Some("network") => format!("etc/systemd/network/{name}"),
                Some("service" | "socket") => format!("etc/systemd/system/{name}"),
                _ => continue,
            };
            entries.push(Entry::File(place, 0o644, fs::read(&path)?));
        }
        entries.push(Entry::File(
            "etc/NetworkManager/conf.d/banger.conf".into(),
            0o644,
            fs::read(units.join("banger-networkmanager.conf"))?,
        ));
        // Whiteouts (image-spec, layer.md): it is started when the test comes to it.
        for wanted in [
            "multi-user.target.wants/.wh.NetworkManager.service",
            "network-online.target.wants/.wh.NetworkManager-wait-online.service",
        ] {
            let place = format!("etc/systemd/system/{wanted}");
            entries.push(Entry::File(place, 0o644, Vec::new()));
        }
        let mut image = image_of(self.host_layer())?.with(Layer::new(&entries, Compression::Gzip)?);
        image.config = serde_json::json!({"Cmd": ["/bin/bash"]});
        Ok(image)
    }

    /// Debian's minimal system as an image.
    ///
    /// # Errors
    /// When `cargo xtask` has not made it.
    pub fn debian(&self) -> io::Result<Image> {
        image_of(self.base_layer())
    }

    /// Debian with systemd, which does not start Docker by itself.
    ///
    /// # Errors
    /// When `cargo xtask` has not made it.
    pub fn system(&self) -> io::Result<Image> {
        let wanted = "etc/systemd/system/multi-user.target.wants";
        let sockets = "etc/systemd/system/sockets.target.wants";
        // Whiteouts (image-spec, layer.md): in emulation each takes seconds of every boot.
        let hidden = [
            format!("{wanted}/.wh.docker.service"),
            format!("{wanted}/.wh.containerd.service"),
            format!("{sockets}/.wh.docker.socket"),
        ];
        let hidden = hidden.map(|path| Entry::File(path, 0o644, Vec::new()));
        let mut image =
            image_of(self.system_layer())?.with(Layer::new(&hidden, Compression::Gzip)?);
        image.config = serde_json::json!({"Cmd": ["/bin/bash"]});
        Ok(image)
    }

    /// A scratch directory on the file system of the fixtures, so that files can be linked.
    pub(crate) fn scratch(&self) -> io::Result<PathBuf> {
        let scratch = self.directory.join("sandboxes");
        fs::create_dir_all(&scratch)?;
        Ok(scratch)
    }

    pub(crate) fn slots(&self) -> PathBuf {
        self.directory.join("slots")
    }

    /// A store with the kernel and the image `busybox`, made once per build of the executables.
    pub(crate) fn prepared_store(&self) -> io::Result<PathBuf> {
        self.prepared("prepared", &[self.kernel_package()], |store| {
            let sandbox = Sandbox::empty();
            let kernel = self.kernel_package();
            sandbox
                .sh(&format!("banger-image kernel import {}", kernel.display()))
                .ok();
            let archive = sandbox.path("busybox.tar");
            Image::busybox()?.write_archive(&archive, "busybox:latest")?;
            sandbox
                .sh(&format!("banger-image import {}", archive.display()))
                .ok();
            fs::rename(sandbox.store(), store)
        })
    }

    /// The same with the image `system`, too.
    pub(crate) fn prepared_system_store(&self) -> io::Result<PathBuf> {
        let (blob, _) = self.system_layer();
        self.prepared("prepared-system", &[self.kernel_package(), blob], |store| {
            let sandbox = Sandbox::prepared();
            let archive = sandbox.path("system.tar");
            self.system()?.write_archive(&archive, "system:latest")?;
            sandbox
                .sh(&format!("banger-image import {}", archive.display()))
                .ok();
            // The blobs are not needed again, and large.
            fs::remove_dir_all(sandbox.store().join("blobs"))?;
            fs::rename(sandbox.store(), store)
        })
    }

    fn prepared(
        &self,
        name: &str,
        made_of: &[PathBuf],
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let lock = File::create(self.directory.join(format!("{name}.lock")))?;
        lock.lock()?;
        let store = self.directory.join(name);
        let stamp = self.directory.join(format!("{name}.stamp"));
        let build = self.build_stamp(made_of)?;
        if fs::read_to_string(&stamp).is_ok_and(|made| made == build) {
            return Ok(store);
        }
        // Missing before the first run.
        let _ = fs::remove_file(&stamp);
        let _ = fs::remove_dir_all(&store);
        make(&store)?;
        fs::write(stamp, build)?;
        Ok(store)
    }

    fn build_stamp(&self, made_of: &[PathBuf]) -> io::Result<String> {
        let mut stamp = String::new();
        let programs = [
            self.bin.join("banger-image"),
            self.libexec().join("banger-agent"),
        ];
        for file in programs.iter().chain(made_of) {
            let metadata = fs::metadata(file)?;
            stamp += &format!(
                "{} {} {}.{}\n",
                file.display(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec()
            );
        }
        Ok(stamp)
    }
}

fn image_of((blob, diff_id): (PathBuf, PathBuf)) -> io::Result<Image> {
    let layer = Layer {
        blob: fs::read(blob)?,
        diff_id: fs::read_to_string(diff_id)?.trim().to_owned(),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
    };
    Ok(Image::new(vec![layer]))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Copies a store; large files, which no command may change in place, are linked.
pub(crate) fn copy_store(from: &Path, to: &Path) -> io::Result<()> {
    const LARGE: u64 = 64 << 10;
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let metadata = entry.metadata()?;
        let database = entry.file_name().to_string_lossy().starts_with("banger.db");
        if metadata.is_dir() {
            copy_store(&entry.path(), &target)?;
        } else if metadata.len() > LARGE && !database {
            fs::hard_link(entry.path(), target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The run was asked to skip tests of this kind by name (`cargo xtask test --skip vm`); the test
/// returns, and is counted as skipped.
///
/// # Panics
/// When the skip cannot be recorded: it must not pass silently.
pub fn skipped(kind: &str) -> bool {
    let names = std::env::var("BANGER_TEST_SKIP").unwrap_or_default();
    if !names.split(',').any(|name| name == kind) {
        return false;
    }
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let log = std::env::var_os("BANGER_TEST_SKIPPED").expect("BANGER_TEST_SKIPPED names a file");
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .expect("skips can be recorded");
    writeln!(file, "{kind} {test}").expect("skips can be recorded");
    true
}

/// A gzip layer of a file, for `cargo xtask`.
///
/// # Errors
/// When it cannot be read.
pub fn pack(tar: &Path) -> io::Result<Layer> {
    Layer::from_tar(&fs::read(tar)?, Compression::Gzip)
}
