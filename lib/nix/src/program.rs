//! What of a package is run, and what machine it is for.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::{PathInfo, StorePath};

/// Where packages have programs.
const DIRECTORIES: [&str; 2] = ["bin", "sbin"];
/// `e_machine` (elf(5), linux/elf-em.h) and what OCI calls the architecture.
const MACHINES: [(u16, &str); 6] = [
    (3, "386"),
    (40, "arm"),
    (62, "amd64"),
    (183, "arm64"),
    (243, "riscv64"),
    (22, "s390x"),
];

/// How a package is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// The command; empty when none can be told.
    pub command: Vec<String>,
    /// `PATH` of the guest.
    pub search_path: String,
}

/// The program of a package: what its `meta` says, the only one in `bin`, or that which is called as the package.
pub fn main_program(top: &StorePath, stated: Option<&str>) -> Program {
    let bin = top.path().join("bin");
    let named = |name: &str| !name.contains('/') && bin.join(name).is_file();
    let programs = names(&bin);
    let name = match stated.filter(|name| named(name)) {
        Some(stated) => Some(stated.to_owned()),
        None => match &programs[..] {
            [only] => Some(only.clone()),
            _ => Some(without_version(top.name()).to_owned()).filter(|name| named(name)),
        },
    };
    let directories = DIRECTORIES
        .iter()
        .map(|directory| top.path().join(directory))
        .filter(|directory| directory.is_dir())
        .map(|directory| directory.to_string_lossy().into_owned());
    let usual = ["/usr/local/bin", "/usr/bin", "/bin"].map(str::to_owned);
    Program {
        command: name
            .map(|name| vec![format!("{top}/bin/{name}")])
            .unwrap_or_default(),
        search_path: directories.chain(usual).collect::<Vec<_>>().join(":"),
    }
}

/// `hello` of `hello-2.12.1`: the version begins at the first dash before a digit (the Nix manual, `parseDrvName`).
fn without_version(name: &str) -> &str {
    let version = name
        .match_indices('-')
        .find(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    version.map_or(name, |(at, _)| &name[..at])
}

/// Files that are no hidden wrappers, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// OCI architecture of the machine that a closure's programs are for; none when it has none. The package itself is
/// looked at before what it needs.
pub(crate) fn architecture(top: &StorePath, paths: &[PathInfo]) -> Option<&'static str> {
    let others = paths
        .iter()
        .map(|info| &info.path)
        .filter(|path| *path != top);
    [top].into_iter().chain(others).find_map(|path| {
        DIRECTORIES.iter().find_map(|directory| {
            let directory = path.path().join(directory);
            names(&directory)
                .iter()
                .find_map(|name| machine(&directory.join(name)))
        })
    })
}

fn machine(path: &Path) -> Option<&'static str> {
    let mut head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    let [0x7f, b'E', b'L', b'F', _, order, ..] = head else {
        return None;
    };
    let number = [head[18], head[19]];
    let number = match order {
        2 => u16::from_be_bytes(number),
        _ => u16::from_le_bytes(number),
    };
    MACHINES
        .iter()
        .find(|(machine, _)| *machine == number)
        .map(|(_, name)| *name)
}

/// OCI architecture of what Nix calls a system, `x86_64-linux`; none for what is not Linux.
pub(crate) fn of_system(system: &str) -> Option<&str> {
    let machine = system.strip_suffix("-linux")?;
    Some(match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" => "386",
        "armv7l" | "armv6l" => "arm",
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_begin_at_a_digit() {
        for (name, expected) in [
            ("hello-2.12.1", "hello"),
            ("gtk+-3.0-bin", "gtk+"),
            ("a-b", "a-b"),
            ("x-", "x-"),
        ] {
            assert_eq!(without_version(name), expected);
        }
    }

    #[test]
    fn systems_have_oci_names() {
        assert_eq!(of_system("aarch64-linux"), Some("arm64"));
        assert_eq!(of_system("riscv64-linux"), Some("riscv64"));
        assert_eq!(of_system("x86_64-darwin"), None);
    }

    #[test]
    fn machines_are_read_from_elf_headers() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("x");
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 183;
        fs::write(&file, &elf).unwrap();
        assert_eq!(machine(&file), Some("arm64"));
        fs::write(&file, "#!/bin/sh\n").unwrap();
        assert_eq!(machine(&file), None);
    }
}
