//! Nix in a folder, and the nixpkgs library that crates carry as test data. Nothing is installed, and no
//! binary cache is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::{Fixtures, sha256};

use crate::packages::Suite;
use crate::step::{Result, output, run};

/// Debian 12 has 2.8; this one has 2.26.
const SUITE: &str = "trixie";

/// Where packages of the suite have the dynamic loader (ld.so(8)) and libraries.
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Nobody reads them in a test.
const UNREAD: [&str; 3] = ["usr/share/doc", "usr/share/man", "usr/share/locale"];

/// Unpacks Nix with all its libraries; its executable names its place, so a moved folder is made again.
pub(crate) fn program(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    // The folder may be a link to one that several worktrees share.
    let place = directory.canonicalize()?.join("nix");
    let stamp = place.join("place");
    if fs::read_to_string(&stamp).is_ok_and(|made| Path::new(&made) == place) {
        println!("   Nix is there");
        return Ok(());
    }
    println!("   downloading Nix from Debian's {SUITE} (not installed)");
    let new = tempfile::tempdir_in(directory)?;
    Suite::open(SUITE, directory)?.unpack_with_dependencies("nix-bin", new.path())?;
    for unread in UNREAD {
        // Not every release has each.
        let _ = fs::remove_dir_all(new.path().join(unread));
    }
    run(Command::new("patchelf")
        .arg("--set-interpreter")
        .arg(place.join(LOADER))
        // The libraries' own libraries are looked for there too (ld.so(8), DT_RPATH).
        .args(["--force-rpath", "--set-rpath"])
        .arg(place.join(LIBRARIES))
        .arg(new.path().join("usr/bin/nix").canonicalize()?))?;
    fs::write(
        new.path().join("place"),
        place.as_os_str().as_encoded_bytes(),
    )?;
    replace(new.keep(), &place)?;
    let version = output(Command::new(fixtures.nix_programs().join("nix")).arg("--version"))?;
    println!("   {}", version.trim());
    Ok(())
}

/// A crate whose test data has a part of nixpkgs.
struct Carrier {
    name: &'static str,
    version: &'static str,
    sha256: &'static str,
    /// What is taken of it, and what it is then called.
    part: &'static str,
    place: &'static str,
}

const CARRIERS: [Carrier; 2] = [
    Carrier {
        name: "nixdoc",
        version: "0.3.0",
        sha256: "sha256:737ae00607e3b64b54cd08a329db492729ac42d664732219ed83e5fd1cbe5667",
        part: "src/tests/fixtures",
        place: "lib",
    },
    Carrier {
        name: "nixel",
        version: "5.2.0",
        sha256: "sha256:9d75d3203063d3a8d7d050b324fb3f7433ae8eac57e79031a53b1328e2db5a54",
        part: "tests/inputs/nixpkgs",
        place: "nixpkgs",
    },
];

/// Unpacks nixpkgs' library and modules.
pub(crate) fn library(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    let place = fixtures.nixpkgs_library();
    if place.exists() {
        println!("   the library of nixpkgs is there");
        return Ok(());
    }
    println!("   downloading the library of nixpkgs, which crates have as test data (not built)");
    let new = tempfile::tempdir_in(directory)?;
    for carrier in &CARRIERS {
        let Carrier { name, version, .. } = carrier;
        let archive = archive(carrier)?;
        let unpacked = tempfile::tempdir_in(directory)?;
        run(Command::new("tar")
            .args(["--extract", "--gzip", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(unpacked.path())
            .arg(format!("{name}-{version}/{}", carrier.part)))?;
        let part = unpacked
            .path()
            .join(format!("{name}-{version}"))
            .join(carrier.part);
        fs::rename(part, new.path().join(carrier.place))?;
    }
    replace(new.keep(), &place)
}

/// The crate's archive, as cargo downloaded and kept it.
fn archive(carrier: &Carrier) -> Result<PathBuf> {
    let Carrier {
        name,
        version,
        sha256: expected,
        ..
    } = carrier;
    // `cargo info` downloads what it shows, and resolves nothing.
    output(crate::build::cargo().args(["info", "--quiet", &format!("{name}@{version}")]))?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let home = home.ok_or("there is neither CARGO_HOME nor a home directory")?;
    let file = format!("{name}-{version}.crate");
    for registry in fs::read_dir(home.join("registry/cache"))? {
        let path = registry?.path().join(&file);
        let Ok(content) = fs::read(&path) else {
            continue;
        };
        let found = sha256(&content);
        if found != *expected {
            return Err(format!("{} is {found}, not {expected}", path.display()).into());
        }
        return Ok(path);
    }
    Err(format!("cargo kept no {file}").into())
}

/// Puts a finished directory into its place, which nobody uses while it is wrong.
fn replace(new: PathBuf, place: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::rename(new, place)?;
    Ok(())
}
