//! All modules of a kernel, and the files that modprobe finds them by. Packages ship none of
//! these: depmod(8) makes them where a package is installed, which here is nowhere.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use crate::modinfo::{Modinfo, name, name_of_path};
use crate::trie::Trie;

/// Files that the catalogue makes; a package's own are out of date by definition.
const GENERATED: [&str; 13] = [
    "modules.alias",
    "modules.alias.bin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.dep",
    "modules.dep.bin",
    "modules.devname",
    "modules.softdep",
    "modules.symbols",
    "modules.symbols.bin",
    "modules.weakdep",
    "modules.pcimap",
    "modules.usbmap",
];

/// One module.
#[derive(Debug)]
pub(crate) struct Module {
    /// Below `/lib/modules/<release>`.
    pub(crate) path: String,
    /// With underscores.
    pub(crate) name: String,
    /// What it says of itself.
    pub(crate) info: Modinfo,
}

/// Modules, loadable and built in.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    modules: Vec<Module>,
    by_name: HashMap<String, usize>,
    builtin: BTreeSet<String>,
    /// Alias and module.
    builtin_aliases: Vec<(String, String)>,
    order: HashMap<String, usize>,
}

/// The file is one that [`Catalog::files`] makes.
pub(crate) fn is_generated(path: &str) -> bool {
    GENERATED.contains(&path)
}

impl Catalog {
    /// Adds a module. Of two with one name, the first counts.
    pub(crate) fn add(&mut self, path: String, name: String, info: Modinfo) -> usize {
        let index = self.modules.len();
        self.by_name.entry(name.clone()).or_insert(index);
        self.modules.push(Module { path, name, info });
        index
    }

    /// `modules.builtin`: a path a line.
    pub(crate) fn set_builtin(&mut self, text: &str) {
        self.builtin = text.lines().filter_map(name_of_path).collect();
    }

    /// `modules.builtin.modinfo`: `module.key=value`, each ended by NUL.
    pub(crate) fn set_builtin_modinfo(&mut self, bytes: &[u8]) {
        for line in bytes
            .split(|&b| b == 0)
            .filter_map(|line| std::str::from_utf8(line).ok())
        {
            if let Some((key, value)) = line.split_once('=')
                && let Some(module) = key.strip_suffix(".alias")
            {
                self.builtin_aliases.push((value.to_owned(), name(module)));
            }
        }
    }

    /// `modules.order`: a path a line; the first of several that match an alias wins.
    pub(crate) fn set_order(&mut self, text: &str) {
        self.order = text
            .lines()
            .enumerate()
            .map(|(at, path)| (path.to_owned(), at))
            .collect();
    }

    pub(crate) fn len(&self) -> usize {
        self.modules.len()
    }

    pub(crate) fn module(&self, index: usize) -> &Module {
        &self.modules[index]
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
            || self
                .builtin_aliases
                .iter()
                .any(|(alias, _)| crate::modinfo::name(alias) == name)
    }

    /// Modules with exactly this alias.
    pub(crate) fn with_alias(&self, wanted: &str) -> Vec<usize> {
        let matches = |module: &Module| module.info.aliases.iter().any(|a| name(a) == wanted);
        (0..self.modules.len())
            .filter(|&index| matches(&self.modules[index]))
            .collect()
    }

    /// What must be loaded for a module, in order, itself last. Unknown dependencies are left out,
    /// as depmod does.
    pub(crate) fn load_order(&self, index: usize) -> Vec<usize> {
        let mut order = Vec::new();
        // Explicit stack: a hostile chain of dependencies must not exhaust the real one.
        let mut stack = vec![(index, 0)];
        let mut seen = BTreeSet::from([index]);
        while let Some((at, next)) = stack.pop() {
            match self.modules[at].info.depends.get(next) {
                None => order.push(at),
                Some(dependency) => {
                    stack.push((at, next + 1));
                    if let Some(dependency) = self.find(dependency)
                        && seen.insert(dependency)
                    {
                        stack.push((dependency, 0));
                    }
                }
            }
        }
        order
    }

    /// The files for `/lib/modules/<release>`: name and content.
    pub(crate) fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut sorted: Vec<usize> = (0..self.modules.len()).collect();
        sorted.sort_by_key(|&index| (self.position(index), &self.modules[index].path));
        let (dep, dep_bin) = self.dependencies(&sorted);
        let (alias, alias_bin) = self.aliases(&sorted);
        let (symbols, symbols_bin) = self.symbols(&sorted);
        let mut builtin_bin = Trie::default();
        for name in &self.builtin {
            builtin_bin.insert(name, "", 0);
        }
        let mut builtin_alias_bin = Trie::default();
        for (alias, module) in &self.builtin_aliases {
            builtin_alias_bin.insert(&normalised(alias), module, 0);
        }
        vec![
            ("modules.alias", alias.into_bytes()),
            ("modules.alias.bin", alias_bin.to_bytes()),
            ("modules.builtin.alias.bin", builtin_alias_bin.to_bytes()),
            ("modules.builtin.bin", builtin_bin.to_bytes()),
            ("modules.dep", dep.into_bytes()),
            ("modules.dep.bin", dep_bin.to_bytes()),
            ("modules.devname", self.device_names(&sorted).into_bytes()),
            (
                "modules.softdep",
                self.soft_dependencies(&sorted).into_bytes(),
            ),
            ("modules.symbols", symbols.into_bytes()),
            ("modules.symbols.bin", symbols_bin.to_bytes()),
        ]
    }

    fn position(&self, index: usize) -> usize {
        let path = &self.modules[index].path;
        let uncompressed = path.find(".ko").map_or(&**path, |at| &path[..at + 3]);
        self.order.get(uncompressed).copied().unwrap_or(usize::MAX)
    }

    /// A line per module: its path, then what it needs, the first to load last (modules.dep(5)).
    fn dependencies(&self, sorted: &[usize]) -> (String, Trie) {
        let (mut text, mut trie) = (String::new(), Trie::default());
        for (priority, &index) in (0..).zip(sorted) {
            let module = &self.modules[index];
            let mut line = format!("{}:", module.path);
            for &needed in self.load_order(index).iter().rev().skip(1) {
                let _ = write!(line, " {}", self.modules[needed].path);
            }
            let _ = writeln!(text, "{line}");
            trie.insert(&module.name, &line, priority);
        }
        (text, trie)
    }

    fn aliases(&self, sorted: &[usize]) -> (String, Trie) {
        let mut text = String::from("# Aliases extracted from modules themselves.\n");
        let mut trie = Trie::default();
        for (priority, &index) in (0..).zip(sorted) {
            let module = &self.modules[index];
            for alias in &module.info.aliases {
                let _ = writeln!(text, "alias {alias} {}", module.name);
                trie.insert(&normalised(alias), &module.name, priority);
            }
        }
        (text, trie)
    }

    fn symbols(&self, sorted: &[usize]) -> (String, Trie) {
        let mut text = String::from("# Aliases for symbols, used by symbol_request().\n");
        let mut trie = Trie::default();
        for (priority, &index) in (0..).zip(sorted) {
            let module = &self.modules[index];
            for symbol in &module.info.exports {
                let alias = format!("symbol:{symbol}");
                let _ = writeln!(text, "alias {alias} {}", module.name);
                trie.insert(&alias, &module.name, priority);
            }
        }
        (text, trie)
    }

    fn soft_dependencies(&self, sorted: &[usize]) -> String {
        let mut text = String::from("# Soft dependencies extracted from modules themselves.\n");
        for module in sorted.iter().map(|&index| &self.modules[index]) {
            for line in &module.info.softdeps {
                let _ = writeln!(text, "softdep {} {line}", module.name);
            }
        }
        text
    }

    /// Static device nodes that load their module when opened.
    fn device_names(&self, sorted: &[usize]) -> String {
        let mut text = String::from("# Device nodes to trigger on-demand module loading.\n");
        for module in sorted.iter().map(|&index| &self.modules[index]) {
            let mut node = None;
            let mut number = None;
            for alias in &module.info.aliases {
                if let Some(name) = alias.strip_prefix("devname:") {
                    node = Some(name);
                } else if let Some((kind, numbers)) = device_number(alias) {
                    number = number.or(Some((kind, numbers)));
                }
            }
            if let (Some(node), Some((kind, (major, minor)))) = (node, number) {
                let _ = writeln!(text, "{} {node} {kind}{major}:{minor}", module.name);
            }
        }
        text
    }
}

/// `char-major-10-200` as `c` and its numbers; wildcards name no single node.
fn device_number(alias: &str) -> Option<(char, (u32, u32))> {
    let (kind, numbers) = [("char-major-", 'c'), ("block-major-", 'b')]
        .iter()
        .find_map(|(prefix, kind)| Some((*kind, alias.strip_prefix(prefix)?)))?;
    let (major, minor) = numbers.split_once('-')?;
    Some((kind, (major.parse().ok()?, minor.parse().ok()?)))
}

/// As kmod compares aliases: dashes are underscores, except within brackets.
fn normalised(alias: &str) -> String {
    let mut bracket = false;
    alias
        .chars()
        .map(|c| {
            match c {
                '[' => bracket = true,
                ']' => bracket = false,
                _ => {}
            }
            if c == '-' && !bracket { '_' } else { c }
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Path, dependencies, aliases, soft dependencies.
    pub(crate) type Described<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    pub(crate) fn catalog(modules: &[Described<'_>]) -> Catalog {
        let mut catalog = Catalog::default();
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        for (path, depends, aliases, softdeps) in modules {
            let info = Modinfo {
                depends: owned(depends),
                aliases: owned(aliases),
                softdeps: owned(softdeps),
                exports: Vec::new(),
            };
            catalog.add((*path).to_owned(), name_of_path(path).unwrap(), info);
        }
        catalog
    }

    fn file(catalog: &Catalog, name: &str) -> String {
        let (_, content) = catalog
            .files()
            .into_iter()
            .find(|(file, _)| *file == name)
            .unwrap();
        String::from_utf8(content).unwrap()
    }

    #[test]
    fn modules_dep_lists_what_is_loaded_first_last() {
        let mut catalog = catalog(&[
            ("kernel/c-c.ko.xz", &["b", "a"], &[], &["pre: x"]),
            ("kernel/a.ko", &["gone"], &[], &[]),
            ("kernel/b.ko", &["a", "c_c"], &[], &[]),
        ]);
        catalog.set_order("kernel/a.ko\nkernel/b.ko\nkernel/c-c.ko\n");
        assert_eq!(
            file(&catalog, "modules.dep"),
            "kernel/a.ko:\nkernel/b.ko: kernel/c-c.ko.xz kernel/a.ko\n\
             kernel/c-c.ko.xz: kernel/b.ko kernel/a.ko\n"
        );
        assert!(file(&catalog, "modules.softdep").ends_with("softdep c_c pre: x\n"));
    }

    #[test]
    fn aliases_and_device_nodes_are_listed() {
        let catalog = catalog(&[(
            "kernel/tun.ko",
            &[],
            &["devname:net/tun", "char-major-10-200", "x-y:[a-b]-c"],
            &[],
        )]);
        assert!(file(&catalog, "modules.devname").ends_with("tun net/tun c10:200\n"));
        assert!(file(&catalog, "modules.alias").contains("alias x-y:[a-b]-c tun\n"));
        assert_eq!(normalised("x-y:[a-b]-c"), "x_y:[a-b]_c");
    }
}
