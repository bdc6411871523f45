//! Packages of the distribution: named with their reason, then installed or only unpacked.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::step::{self, Result, output, run};

/// A package, a file that shows that it is there, and what it is for.
pub(crate) struct Package {
    name: &'static str,
    file: &'static str,
    why: &'static str,
}

const fn package(name: &'static str, file: &'static str, why: &'static str) -> Package {
    Package { name, file, why }
}

/// What the demonstration needs.
pub(crate) const DEMO: &[Package] = &[
    package(
        "qemu-system-x86",
        "/usr/bin/qemu-system-x86_64",
        "runs the VMs",
    ),
    package(
        "qemu-system-common",
        "/usr/lib/qemu/virtiofsd",
        "serves directories of the host to VMs",
    ),
    package(
        "e2fsprogs",
        "/sbin/e2fsck",
        "checks and makes ext4 file systems",
    ),
    package(
        "mmdebstrap",
        "/usr/bin/mmdebstrap",
        "makes a Debian root file system from signed packages",
    ),
    package("xz-utils", "/usr/bin/xz", "unpacks packages"),
];

/// What the tests need besides.
pub(crate) const TEST: &[Package] = &[
    package(
        "busybox-static",
        "/bin/busybox",
        "is the whole of a small test image",
    ),
    package(
        "skopeo",
        "/usr/bin/skopeo",
        "makes OCI layouts and archives as other tools do",
    ),
    package(
        "openssl",
        "/usr/bin/openssl",
        "makes certificates of test registries",
    ),
    package("umoci", "/usr/bin/umoci", "unpacks images as a reference"),
    package("zstd", "/usr/bin/zstd", "packs layers as other tools do"),
    package(
        "attr",
        "/usr/bin/setfattr",
        "gives test files extended attributes",
    ),
    package(
        "erofs-utils",
        "/usr/bin/fsck.erofs",
        "checks EROFS file systems",
    ),
    package(
        "kmod",
        "/sbin/depmod",
        "indexes kernel modules as a reference",
    ),
    package(
        "sqlite3",
        "/usr/bin/sqlite3",
        "checks and damages the store's database",
    ),
    package(
        "systemd",
        "/lib/systemd/systemd",
        "runs in a namespace, for the scopes of VMs",
    ),
    package(
        "openssh-client",
        "/usr/bin/ssh",
        "logs in to guests, with its scp and sftp",
    ),
    package(
        "dropbear-bin",
        "/usr/sbin/dropbear",
        "is an image's own SSH server",
    ),
    package(
        "git",
        "/usr/bin/git",
        "keeps the repositories of workspaces, on the host and in guests",
    ),
    package(
        "git-lfs",
        "/usr/bin/git-lfs",
        "is a filter of the host's, for repositories with large files",
    ),
    package("rsync", "/usr/bin/rsync", "copies trees by ssh"),
    package(
        "npm",
        "/usr/bin/npm",
        "downloads mise, which no distribution has",
    ),
    package("nftables", "/usr/sbin/nft", "loads the rules between VMs"),
    package("iproute2", "/sbin/ip", "looks at interfaces as a reference"),
    package("strace", "/usr/bin/strace", "counts what a change costs"),
    package("iputils-ping", "/bin/ping", "sends packets from namespaces"),
    package(
        "patchelf",
        "/usr/bin/patchelf",
        "lets Nix run from a folder",
    ),
    package("curl", "/usr/bin/curl", "asks a VM for a page by name"),
    package(
        "dnsmasq-base",
        "/usr/sbin/dnsmasq",
        "is another server of names: an upstream, a host's resolver, a peer",
    ),
    package(
        "iptables",
        "/usr/sbin/iptables",
        "is the firewall that Docker makes",
    ),
    package(
        "python3-firewall",
        "/usr/lib/python3/dist-packages/firewall",
        "is the library of firewalld, which is only unpacked",
    ),
    package(
        "python3-nftables",
        "/usr/lib/python3/dist-packages/nftables",
        "is what firewalld loads its rules with",
    ),
    package(
        "dbus-daemon",
        "/usr/bin/dbus-daemon",
        "is the bus of firewalld",
    ),
    package("zsh", "/bin/zsh", "completes commands"),
    package("fish", "/usr/bin/fish", "completes commands"),
];

/// What comparing with other tools needs besides.
pub(crate) const BENCH: &[Package] = &[package(
    "python3-pip",
    "/usr/bin/pip3",
    "downloads a peer that is published as a Python package",
)];

/// What comparing servers of names needs besides.
pub(crate) const NET_BENCH: &[Package] = &[package(
    "dnsperf",
    "/usr/bin/dnsperf",
    "asks servers of names as often as they answer",
)];

/// What comparing with another SSH server needs besides.
pub(crate) const SSH_BENCH: &[Package] = &[package(
    "dropbear-bin",
    "/usr/sbin/dropbear",
    "is the SSH server that the agent's is compared with",
)];

/// What mapping user ids takes when we are not root.
const UNPRIVILEGED: &[Package] = &[package(
    "uidmap",
    "/usr/bin/newuidmap",
    "lets mmdebstrap work without root",
)];

/// Packages that are to be installed, and were named.
pub(crate) struct Missing(Vec<&'static str>);

/// Names what is missing, each with its reason, and makes sure that it can be installed.
pub(crate) fn missing(sets: &[&[Package]]) -> Result<Missing> {
    let unprivileged: &[Package] = if is_root() { &[] } else { UNPRIVILEGED };
    let missing: Vec<&Package> = sets
        .iter()
        .copied()
        .chain([unprivileged])
        .flatten()
        .filter(|package| !Path::new(package.file).exists())
        .collect();
    let names: Vec<&'static str> = missing.iter().map(|package| package.name).collect();
    if missing.is_empty() {
        println!("   nothing to install, all packages are there");
        return Ok(Missing(names));
    }
    println!("   to be installed from the distribution:");
    for package in &missing {
        println!("     {:16} {}", package.name, package.why);
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("no apt-get here; install yourself: {}", names.join(" ")).into());
    }
    if !is_root() {
        // It may ask for a password, which must not get lost in what follows.
        run(Command::new("sudo").arg("--validate"))?;
    }
    Ok(Missing(names))
}

impl Missing {
    /// Installs them.
    pub(crate) fn install(self) -> Result<()> {
        let Missing(names) = self;
        if names.is_empty() {
            return Ok(());
        }
        let mut install = as_root("apt-get");
        install
            .args(["install", "--yes", "--no-install-recommends", "-qq"])
            .args(&names);
        update_lists_for(&names)?;
        run(&mut install)
    }
}

/// Reads the package lists again when one of `names` is not in them.
fn update_lists_for(names: &[&str]) -> Result<()> {
    let known = names.iter().all(|name| {
        output(Command::new("apt-cache").args(["show", "--no-all-versions", name])).is_ok()
    });
    if known {
        return Ok(());
    }
    run(as_root("apt-get").args(["update", "-qq"]))
}

/// Downloads the package that `name` is, or stands for, into `directory`; returns its file name.
pub(crate) fn download(name: &str, directory: &Path) -> Result<String> {
    update_lists_for(&[name])?;
    fs::create_dir_all(directory)?;
    run(Command::new("apt-get")
        .args(["download", "-qq", name])
        // The user _apt cannot enter our directory; without this apt warns, and does it all the same.
        .args(["-o", "APT::Sandbox::User=root"])
        .current_dir(directory))?;
    downloaded(name, directory)
}

/// apt for another Debian suite, with a state of its own: the machine's lists and packages are not touched.
pub(crate) struct Suite {
    state: TempDir,
}

impl Suite {
    /// Reads the suite's lists, into a directory beside what is to be downloaded.
    pub(crate) fn open(suite: &str, directory: &Path) -> Result<Suite> {
        Suite::of("deb", suite, directory)
    }

    /// As [`Suite::open`], for sources of packages.
    pub(crate) fn open_sources(suite: &str, directory: &Path) -> Result<Suite> {
        Suite::of("deb-src", suite, directory)
    }

    fn of(kind: &str, suite: &str, directory: &Path) -> Result<Suite> {
        let state = tempfile::tempdir_in(directory)?;
        let at = |name: &str| state.path().join(name);
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(at(directory))?;
        }
        fs::write(at("status"), "")?;
        let mirror = mirror()?;
        let source = format!(
            "{kind} [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n"
        );
        fs::write(at("sources.list"), source)?;
        let suite = Suite { state };
        run(suite.apt_get().arg("update"))?;
        Ok(suite)
    }

    fn apt_get(&self) -> Command {
        let state = self.state.path();
        let mut command = Command::new("apt-get");
        for (option, path) in [
            ("Dir::State", state.to_owned()),
            ("Dir::State::status", state.join("status")),
            ("Dir::Cache", state.join("cache")),
            ("Dir::Etc::sourcelist", state.join("sources.list")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", path.display()));
        }
        for option in [
            "Dir::Etc::sourceparts=-",
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
        ] {
            command.args(["-o", option]);
        }
        command.arg("-qq");
        command
    }

    /// Downloads the source of a package into `directory`: the archives, unpacked by nobody.
    pub(crate) fn download_source(&self, name: &str, directory: &Path) -> Result<()> {
        run(self
            .apt_get()
            .args(["source", "--download-only", name])
            .current_dir(directory))
    }

    /// Downloads a package into `directory`; returns its file name.
    pub(crate) fn download(&self, name: &str, directory: &Path) -> Result<String> {
        run(self
            .apt_get()
            .args(["download", name])
            .current_dir(directory))?;
        downloaded(name, directory)
    }

    /// Unpacks a package and all that it depends on into `directory`, C library included.
    pub(crate) fn unpack_with_dependencies(&self, name: &str, directory: &Path) -> Result<()> {
        run(self.apt_get().args([
            "install",
            "--download-only",
            "--yes",
            "--no-install-recommends",
            name,
        ]))?;
        for entry in fs::read_dir(self.state.path().join("cache/archives"))? {
            let package = entry?.path();
            if package.extension().is_some_and(|ending| ending == "deb") {
                step::output(
                    Command::new("dpkg-deb")
                        .arg("--extract")
                        .args([&package, directory]),
                )?;
            }
        }
        Ok(())
    }
}

/// The mirror that this machine takes Debian from; it has all suites.
fn mirror() -> Result<String> {
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format=$(REPO_URI) $(SUITE)",
        "Created-By: Packages",
        "Origin: Debian",
        "Component: main",
    ]))?;
    let security = |line: &&str| !line.contains("security");
    let first = targets.lines().find(security);
    let uri = first.and_then(|line| line.split(' ').next());
    match uri {
        Some(uri) => Ok(uri.to_owned()),
        None => Err("apt-get knows no mirror of Debian: run `apt-get update`".into()),
    }
}

/// The file that apt-get left.
fn downloaded(name: &str, directory: &Path) -> Result<String> {
    let prefix = format!("{name}_");
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if file.starts_with(&prefix) && file.ends_with(".deb") {
            return Ok(file);
        }
    }
    Err(format!("apt-get download {name} left no package").into())
}

/// The package that a meta package depends on, by the start of its name.
pub(crate) fn dependency(meta: &str, prefix: &str) -> Result<String> {
    update_lists_for(&[meta])?;
    let shown = output(Command::new("apt-cache").args(["depends", "--important", meta]))?;
    let found = shown
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix));
    match found {
        Some(name) => Ok(name.to_owned()),
        None => Err(format!("{meta} depends on no {prefix}…").into()),
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn as_root(program: &str) -> Command {
    // As arguments of env(1): sudo passes few variables on (sudoers(5), env_reset).
    let (first, more): (&str, &[&str]) = if is_root() {
        ("env", &[])
    } else {
        ("sudo", &["env"])
    };
    let mut command = Command::new(first);
    command
        .args(more)
        .args(["DEBIAN_FRONTEND=noninteractive", program]);
    command
}

/// Unpacks a package without installing it: no service of it is started.
pub(crate) fn unpack(package: &Path, directory: &Path) -> Result<()> {
    step::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([package, directory]),
    )
}
