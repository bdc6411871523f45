//! Other tools for the same job: fetched into the target directory, never installed.
//!
//! Newer releases than the host's are unpacked from the distribution's rolling suite with an apt
//! state of their own, and run by their own dynamic linker. What cannot be had is said, not left out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixtures;
use crate::step::{Result, go_on, output};

/// The suite with all of them; the name never changes.
const SUITE: &str = "sid";
/// Packages of that suite; libarchive-tools brings the library that mke2fs reads a tar with.
const PACKAGES: &[&str] = &[
    "crane",
    "e2fsprogs",
    "erofs-utils",
    "libarchive-tools",
    "skopeo",
    "umoci",
];
const TOOLS: &[&str] = &[
    "usr/bin/crane",
    "usr/sbin/mke2fs",
    "usr/bin/dump.erofs",
    "usr/bin/fsck.erofs",
    "usr/bin/skopeo",
    "usr/bin/umoci",
];
/// The last release when this was written; a fixed one, so that ratios can be compared.
const MICROSANDBOX: &str = "microsandbox==0.7.11";

/// What a peer leaves below `$WORK`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Made {
    /// A file with an ext4 file system.
    Ext4(&'static str),
    /// A directory with an erofs file system for each layer.
    ErofsLayers(&'static str),
}

/// A tool, or several in a row, that do what a pull does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// Most that ours may take of its time.
    pub(super) budget: f64,
    pub(super) script: &'static str,
    pub(super) made: Made,
}

/// The usual pipeline; the tree in between is what needs root.
const USUAL: &str = r#"skopeo --insecure-policy copy -q --src-tls-verify=false \
    "docker://$REF" "oci:$WORK/layout:image"
umoci raw unpack --image "$WORK/layout:image" "$WORK/rootfs"
mke2fs -q -F -t ext4 -d "$WORK/rootfs" "$WORK/disk" 4G"#;

/// The fastest first.
pub(super) fn all() -> [Peer; 3] {
    [
        Peer {
            name: "microsandbox, erofs layers",
            budget: 0.6,
            script: r#"MSB_HOME="$WORK" msb pull --insecure --quiet --materialize layered "$REF""#,
            made: Made::ErofsLayers("cache/layers"),
        },
        Peer {
            name: "crane export, mke2fs -d -",
            budget: 0.35,
            script: r#"crane export --insecure "$REF" - | mke2fs -q -F -t ext4 -d - "$WORK/disk" 4G"#,
            made: Made::Ext4("disk"),
        },
        Peer::usual("skopeo, umoci, mke2fs -d"),
    ]
}

impl Peer {
    /// The usual pipeline, with whichever releases are in the path.
    pub(super) fn usual(name: &'static str) -> Peer {
        Peer {
            name,
            budget: 0.35,
            script: USUAL,
            made: Made::Ext4("disk"),
        }
    }

    /// Its result is what an image must be: it unpacks with the kernel's own rules.
    pub(super) fn is_reference(&self) -> bool {
        self.script == USUAL
    }
}

/// Where peers are, and why some are not.
pub(super) struct Peers {
    directory: PathBuf,
    /// Why tools of the distribution are missing.
    distribution: Option<String>,
    microsandbox: Option<String>,
}

impl Peers {
    /// Only what the host has.
    pub(super) fn none() -> Peers {
        Peers {
            directory: PathBuf::from("/nonexistent"),
            distribution: None,
            microsandbox: None,
        }
    }

    /// Fetches what is not there yet.
    ///
    /// # Errors
    /// When the directory cannot be written; a peer that cannot be fetched is no error.
    pub(super) fn fetch(directory: &Path) -> Result<Peers> {
        fs::create_dir_all(directory.join("bin"))?;
        let why = |made: Result<()>| {
            let why = made.err()?.to_string();
            println!("   {why}");
            Some(why.lines().next().unwrap_or_default().to_owned())
        };
        let peers = Peers {
            directory: directory.to_owned(),
            distribution: why(distribution(directory)),
            microsandbox: why(microsandbox(directory)),
        };
        go_on()?;
        Ok(peers)
    }

    /// The directory with their executables.
    pub(super) fn bin(&self) -> PathBuf {
        self.directory.join("bin")
    }

    /// Why a peer cannot be measured.
    pub(super) fn missing(&self, peer: &Peer) -> Option<&str> {
        match peer.made {
            Made::ErofsLayers(_) => self
                .microsandbox
                .as_deref()
                .or(self.distribution.as_deref()),
            Made::Ext4(_) => self.distribution.as_deref(),
        }
    }
}

/// Unpacks [`PACKAGES`] and what they depend on.
fn distribution(directory: &Path) -> Result<()> {
    let root = directory.join("root");
    let bin = directory.join("bin");
    if TOOLS.iter().all(|tool| bin.join(base(tool)).exists()) {
        println!("   the distribution's tools are there");
        return Ok(());
    }
    println!("   downloading newer tools of the distribution (not installed)");
    let apt = directory.join("apt");
    let archives = apt.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    fs::create_dir_all(apt.join("lists/partial"))?;
    fs::write(apt.join("status"), "")?;
    fs::write(apt.join("list"), source(SUITE)?)?;
    let place = apt.display();
    fs::write(
        apt.join("conf"),
        format!(
            "Dir::State \"{place}\";\nDir::State::status \"{place}/status\";\n\
             Dir::Cache \"{place}\";\nDir::Etc::sourcelist \"{place}/list\";\n\
             Dir::Etc::sourceparts \"/nonexistent\";\nDir::Etc::preferencesparts \"/nonexistent\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n"
        ),
    )?;
    let get = |arguments: &[&str]| {
        let mut get = Command::new("apt-get");
        get.args(arguments).env("APT_CONFIG", apt.join("conf"));
        output(&mut get)
    };
    get(&["update", "-qq"])?;
    let install = [
        "install",
        "-qq",
        "--yes",
        "--download-only",
        "--no-install-recommends",
    ];
    get(&[&install[..], PACKAGES].concat())?;
    for package in fs::read_dir(&archives)? {
        let package = package?.path();
        if package
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            output(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([&package, &root]),
            )?;
        }
    }
    fs::remove_dir_all(&apt)?;
    // Their own linker and libraries: the host's may be older than they want.
    let linker = root.join("usr/lib64/ld-linux-x86-64.so.2");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    for tool in TOOLS {
        let script = format!(
            "#!/bin/sh\nexec {} --library-path {} {} \"$@\"\n",
            linker.display(),
            libraries.display(),
            root.join(tool).display()
        );
        executable(&bin.join(base(tool)), &script)?;
    }
    Ok(())
}

/// Downloads the package, which has a native executable in it, and unpacks that.
fn microsandbox(directory: &Path) -> Result<()> {
    let wanted = directory.join(MICROSANDBOX);
    let program = wanted.join("microsandbox/_bundled/bin/msb");
    if program.exists() && directory.join("bin/msb").exists() {
        println!("   {MICROSANDBOX} is there");
        return Ok(());
    }
    println!("   downloading {MICROSANDBOX} (not installed)");
    let download = tempfile::tempdir_in(directory)?;
    output(
        Command::new("pip3")
            .args(["download", "--quiet", "--no-deps", "--only-binary=:all:"])
            .arg("--dest")
            .arg(download.path())
            .arg(MICROSANDBOX),
    )?;
    let wheel = fs::read_dir(download.path())?
        .next()
        .ok_or("pip left no package")??;
    output(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .args([wheel.path(), wanted]),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", program.display());
    executable(&directory.join("bin/msb"), &script)
}

fn base(tool: &str) -> &str {
    tool.rsplit('/').next().unwrap_or(tool)
}

fn executable(path: &Path, script: &str) -> Result<()> {
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The host's own mirror with another suite, as one line of sources.list(5).
fn source(suite: &str) -> Result<String> {
    let file = fixtures::sources().ok_or("apt has no list of sources")?;
    let mirror = mirror(&fs::read_to_string(file)?)
        .ok_or_else(|| format!("{file} names no mirror"))?
        .to_owned();
    // The host's keyring signs all suites of a distribution.
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    Ok(format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))
}

/// The first mirror of a list in either format.
fn mirror(list: &str) -> Option<&str> {
    list.lines().find_map(|line| {
        let rest = line.strip_prefix("URIs:").or(line.strip_prefix("deb "))?;
        rest.split_whitespace().find(|word| word.contains("://"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_either_format() {
        let deb822 = "Types: deb\n# old\nURIs: http://mirror.test/debian\nSuites: x\n";
        assert_eq!(mirror(deb822), Some("http://mirror.test/debian"));
        let lines = "# deb http://no.test x main\ndeb [arch=amd64] http://mirror.test/d x main\n";
        assert_eq!(mirror(lines), Some("http://mirror.test/d"));
        assert_eq!(mirror("Suites: x\n"), None);
    }
}
