//! What a module says of itself in its `.modinfo` section: `key=value`, each ended by NUL.

use crate::elf::{ElfFault, Object};

/// Longer values are no alias or dependency that a kernel build makes.
const LONGEST: usize = 4096;

/// The facts that module loaders need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Modinfo {
    /// Modules that must be loaded before, by name.
    pub(crate) depends: Vec<String>,
    /// Patterns of what it drives.
    pub(crate) aliases: Vec<String>,
    /// Each as written: `pre: crc32c post: x`.
    pub(crate) softdeps: Vec<String>,
    /// Symbols that it exports.
    pub(crate) exports: Vec<String>,
}

impl Modinfo {
    /// Reads a module, uncompressed.
    pub(crate) fn read(module: &[u8]) -> Result<Self, ElfFault> {
        let object = Object::parse(module)?;
        let mut info = match object.section(".modinfo")? {
            Some(section) => Modinfo::parse(section),
            None => Modinfo::default(),
        };
        object.symbols(|symbol| {
            if let Some(name) = symbol.strip_prefix(b"__ksymtab_")
                && let Ok(name) = std::str::from_utf8(name)
                && !name.is_empty()
                && name.len() <= LONGEST
            {
                info.exports.push(name.to_owned());
            }
        })?;
        Ok(info)
    }

    fn parse(section: &[u8]) -> Self {
        let mut info = Modinfo::default();
        for line in section.split(|&b| b == 0) {
            let Some((key, value)) = std::str::from_utf8(line)
                .ok()
                .and_then(|l| l.split_once('='))
            else {
                continue;
            };
            if value.is_empty() || value.len() > LONGEST || value.contains(['\n', '\r']) {
                continue;
            }
            match key {
                "depends" => {
                    info.depends
                        .extend(value.split(',').filter(|n| !n.is_empty()).map(name));
                }
                "alias" => info.aliases.push(value.to_owned()),
                "softdep" => info.softdeps.push(value.to_owned()),
                _ => {}
            }
        }
        info
    }

    /// The names that soft dependencies want before, and after.
    pub(crate) fn soft(&self) -> (Vec<String>, Vec<String>) {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for line in &self.softdeps {
            let mut list = None;
            for word in line.split_ascii_whitespace() {
                match (word, &mut list) {
                    ("pre:", _) => list = Some(&mut before),
                    ("post:", _) => list = Some(&mut after),
                    (word, Some(list)) => list.push(name(word)),
                    (_, None) => {}
                }
            }
        }
        (before, after)
    }
}

/// A module's name as the kernel has it: with underscores.
pub(crate) fn name(text: &str) -> String {
    text.replace('-', "_")
}

/// The module's name, when this is the path of a module: `kernel/lib/crc-ccitt.ko.xz` is
/// `crc_ccitt`.
pub(crate) fn name_of_path(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"]
        .iter()
        .find_map(|s| file.strip_suffix(s))?;
    (!stem.is_empty()).then(|| name(stem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::module;

    #[test]
    fn a_module_is_read() {
        let bytes = module(
            &[
                "license=GPL",
                "alias=crypto-crc32c",
                "alias=pci:v00001AF4d*",
                "depends=virtio-ring,virtio",
                "softdep=pre: crc32c a-b post: late",
                "name=x",
            ],
            &["first", "second"],
        );
        let info = Modinfo::read(&bytes).unwrap();
        assert_eq!(info.depends, ["virtio_ring", "virtio"]);
        assert_eq!(info.aliases, ["crypto-crc32c", "pci:v00001AF4d*"]);
        assert_eq!(info.exports, ["first", "second"]);
        assert_eq!(
            info.soft(),
            (vec!["crc32c".into(), "a_b".into()], vec!["late".into()])
        );
        assert_eq!(
            Modinfo::read(&module(&["depends="], &[])).unwrap(),
            Modinfo::default()
        );
    }

    #[test]
    fn names_come_from_paths() {
        for (path, expected) in [
            ("kernel/lib/crc-ccitt.ko", Some("crc_ccitt")),
            ("a/b.ko.zst", Some("b")),
            ("x.ko.gz", Some("x")),
            ("modules.dep", None),
            ("kernel/ko", None),
            (".ko", None),
        ] {
            assert_eq!(name_of_path(path).as_deref(), expected, "{path}");
        }
    }
}
