//! What is downloaded or made once and kept under the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::{Fixtures, pack, sha256};

use crate::packages::Suite;
use crate::step::{Result, output, run};
use crate::{build, git_fixtures, nix_fixtures, packages};

/// What the demonstration shows, for executables in `bin`; what is missing is made.
pub(crate) fn for_demo(bin: PathBuf) -> Result<Fixtures> {
    let directory = build::target()?.join("fixtures");
    fs::create_dir_all(&directory)?;
    let fixtures = Fixtures::in_directory(bin, directory.clone());
    kernel(&fixtures, &directory)?;
    registry(&fixtures, &directory)?;
    root_file_system(fixtures.base_layer(), &[], &directory)?;
    Ok(fixtures)
}

/// All fixtures for executables in `bin`; what is missing is made.
pub(crate) fn prepare(bin: PathBuf) -> Result<Fixtures> {
    let fixtures = for_demo(bin)?;
    let directory = build::target()?.join("fixtures");
    umoci(&fixtures, &directory)?;
    firewalld(&fixtures, &directory)?;
    mise(&fixtures, &directory)?;
    nix_fixtures::program(&fixtures, &directory)?;
    nix_fixtures::library(&fixtures, &directory)?;
    git_fixtures::repositories(&fixtures, &directory)?;
    root_file_system(fixtures.system_layer(), &SYSTEM, &directory)?;
    root_file_system(fixtures.host_layer(), &HOST, &directory)?;
    Ok(fixtures)
}

fn kernel(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    if fixtures.kernel_package().exists() {
        println!("   the kernel package is there");
        return Ok(());
    }
    println!("   downloading the distribution's cloud kernel (not installed)");
    let name = packages::dependency("linux-image-cloud-amd64", "linux-image-")?;
    let file = packages::download(&name, directory)?;
    fs::rename(directory.join(file), fixtures.kernel_package())?;
    Ok(())
}

fn registry(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    if fixtures.registry_program().exists() {
        println!("   docker-registry is there");
        return Ok(());
    }
    println!("   downloading docker-registry (not installed: that would start it as a service)");
    let file = packages::download("docker-registry", directory)?;
    let package = directory.join(file);
    packages::unpack(&package, &directory.join("docker-registry"))?;
    fs::remove_file(package)?;
    Ok(())
}

/// The releases up to trixie have umoci 0.4, which reads neither zstd nor every entry.
fn umoci(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    if fixtures.umoci().exists() {
        println!("   umoci is there");
        return Ok(());
    }
    println!("   downloading umoci from Debian's sid (not installed)");
    let file = Suite::open("sid", directory)?.download("umoci", directory)?;
    let package = directory.join(file);
    packages::unpack(&package, &directory.join("umoci"))?;
    fs::remove_file(package)?;
    Ok(())
}

fn firewalld(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    if fixtures.firewalld().exists() {
        println!("   firewalld is there");
        return Ok(());
    }
    println!("   downloading firewalld (not installed: that would start it as a service)");
    let file = packages::download("firewalld", directory)?;
    let package = directory.join(file);
    packages::unpack(&package, &fixtures.firewalld())?;
    fs::remove_file(package)?;
    Ok(())
}

/// The package of npm that carries mise's executable, and its digest: no Debian package does.
const MISE: (&str, &str) = (
    "@jdxcode/mise-linux-x64@2026.9.15",
    "sha256:b51f2463bc4fcdc3b0959b1454792f64be3612e73d856cbca4a062e39e070e74",
);

fn mise(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    if fixtures.mise().exists() {
        println!("   mise is there");
        return Ok(());
    }
    let (package, expected) = MISE;
    println!("   downloading mise, which npm has (not installed)");
    let new = tempfile::tempdir_in(directory)?;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", package])
        .current_dir(new.path());
    let archive = new.path().join(output(&mut npm)?.trim());
    let found = sha256(&fs::read(&archive)?);
    if found != expected {
        return Err(format!("{package} is {found}, not {expected}").into());
    }
    run(Command::new("tar")
        .args(["--extract", "--gzip", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(new.path())
        .arg("package/bin/mise"))?;
    fs::rename(new.path().join("package/bin/mise"), fixtures.mise())?;
    Ok(())
}

/// What makes an image of Debian a machine: its init, and Docker with what loads modules for it.
const SYSTEM: [&str; 4] = ["systemd-sysv", "docker.io", "kmod", "apparmor"];
/// What makes it a host of the bridge network, with what most hosts have for resolving and for interfaces.
const HOST: [&str; 7] = [
    "systemd-sysv",
    "systemd-resolved",
    "network-manager",
    "dbus",
    "kmod",
    "nftables",
    "iproute2",
];
/// Nobody reads them in a test.
const UNREAD: [&str; 3] = ["doc", "man", "locale"];

fn root_file_system(
    (blob, diff_id): (PathBuf, PathBuf),
    packages: &[&str],
    directory: &Path,
) -> Result<()> {
    let what = match packages {
        [] => "the Debian root file system".to_owned(),
        packages => format!("the Debian root file system with {}", packages.join(", ")),
    };
    if blob.exists() && diff_id.exists() {
        println!("   {what} is there");
        return Ok(());
    }
    println!("   making {what}");
    let tar = blob.with_extension("").with_extension("tar.new");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase", "--format=tar"]);
    if !packages.is_empty() {
        mmdebstrap.arg(format!("--include={}", packages.join(",")));
        let excluded = UNREAD.map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
        mmdebstrap.args(excluded);
    }
    mmdebstrap.arg(suite()?).arg(&tar).args(sources());
    run(&mut mmdebstrap)?;
    let layer = pack(&tar)?;
    fs::remove_file(tar)?;
    fs::create_dir_all(directory)?;
    fs::write(&blob, &layer.blob)?;
    // Written last: it says that the layer is whole.
    fs::write(diff_id, layer.diff_id)?;
    Ok(())
}

/// The release of this machine, so that its own mirrors have it.
pub(crate) fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .ok_or_else(|| "/etc/os-release has no VERSION_CODENAME; is this Debian?".into())
}

/// The distribution's own list of mirrors, without those of other vendors.
pub(crate) fn sources() -> Option<&'static str> {
    [
        "/etc/apt/sources.list.d/debian.sources",
        "/etc/apt/sources.list",
    ]
    .into_iter()
    .find(|file| fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0))
}
