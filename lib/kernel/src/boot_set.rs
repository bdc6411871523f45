//! The modules that a guest needs before it has its root, in an order in which they load.

use std::collections::BTreeSet;

use crate::catalog::Catalog;

/// One of these carries all others; the first is what QEMU's usual machines have.
const TRANSPORTS: [&str; 2] = ["virtio_pci", "virtio_mmio"];
/// Disks, the agent's channel, and the root.
pub(crate) const REQUIRED: [&str; 4] = ["virtio_blk", "virtio_console", "ext4", "overlay"];
/// Used when there.
const OPTIONAL: [&str; 9] = [
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "erofs",
    // Loaded on demand; banger_wire::config::on_demand.
    "dm_snapshot",
    "dm_zero",
    "9p",
    "9pnet_virtio",
    "virtiofs",
];

/// Indices into the catalogue, in load order, or what the kernel lacks.
pub(crate) fn boot_set(catalog: &Catalog) -> Result<Vec<usize>, Vec<String>> {
    let available = |name: &str| catalog.find(name).is_some() || catalog.is_builtin(name);
    let mut missing: Vec<String> = REQUIRED
        .iter()
        .filter(|n| !available(n))
        .map(|n| (*n).to_owned())
        .collect();
    if !TRANSPORTS.iter().any(|name| available(name)) {
        missing.insert(0, TRANSPORTS.join(" or "));
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    let mut set = BootSet {
        catalog,
        order: Vec::new(),
        seen: BTreeSet::new(),
    };
    for name in TRANSPORTS.iter().chain(&REQUIRED).chain(&OPTIONAL) {
        set.require(name);
    }
    Ok(set.order)
}

struct BootSet<'a> {
    catalog: &'a Catalog,
    order: Vec<usize>,
    seen: BTreeSet<usize>,
}

impl BootSet<'_> {
    fn require(&mut self, name: &str) {
        if let Some(index) = self.catalog.find(name)
            && !self.catalog.is_builtin(name)
        {
            self.add(index);
        }
    }

    fn add(&mut self, index: usize) {
        for needed in self.catalog.load_order(index) {
            if !self.seen.insert(needed) {
                continue;
            }
            let (before, after) = self.catalog.module(needed).info.soft();
            before.iter().for_each(|name| self.soft(name));
            self.order.push(needed);
            after.iter().for_each(|name| self.soft(name));
        }
    }

    /// A soft dependency names a module or an alias, such as an algorithm. Of several drivers of
    /// one algorithm the generic one is enough and runs on every processor.
    fn soft(&mut self, name: &str) {
        if self.catalog.is_builtin(name) {
            return;
        }
        if self.catalog.find(name).is_some() {
            return self.require(name);
        }
        let candidates = self.catalog.with_alias(name);
        let generic = candidates
            .iter()
            .copied()
            .find(|&index| self.catalog.module(index).name.ends_with("_generic"));
        match generic {
            Some(index) => self.add(index),
            None => candidates.into_iter().for_each(|index| self.add(index)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{Described, catalog};

    const VIRTIO: [Described<'_>; 6] = [
        ("k/virtio_blk.ko", &["virtio", "virtio_ring"], &[], &[]),
        ("k/virtio_pci.ko", &["virtio_ring", "virtio"], &[], &[]),
        ("k/virtio_console.ko", &["virtio"], &[], &[]),
        ("k/virtio.ko", &["virtio_ring"], &[], &[]),
        ("k/virtio_ring.ko", &[], &[], &[]),
        ("k/overlay.ko", &[], &[], &[]),
    ];

    fn names(catalog: &Catalog) -> Vec<&str> {
        boot_set(catalog)
            .unwrap()
            .iter()
            .map(|&index| &*catalog.module(index).name)
            .collect()
    }

    #[test]
    fn dependencies_come_first_and_what_is_built_in_not_at_all() {
        let mut catalog = catalog(&VIRTIO);
        catalog.set_builtin("kernel/fs/ext4/ext4.ko\n");
        let expected = [
            "virtio_ring",
            "virtio",
            "virtio_pci",
            "virtio_blk",
            "virtio_console",
            "overlay",
        ];
        assert_eq!(names(&catalog), expected);
    }

    #[test]
    fn soft_dependencies_are_resolved_through_aliases() {
        let ext4: Described<'_> = ("k/ext4.ko", &["jbd2", "mbcache"], &[], &["pre: crc32c"]);
        let mut modules = VIRTIO.to_vec();
        modules.extend([
            ext4,
            ("k/jbd2.ko", &[], &[], &[]),
            ("k/mbcache.ko", &[], &[], &[]),
            ("k/crc32c-intel.ko", &[], &["crc32c"], &[]),
            ("k/crc32c_generic.ko", &[], &["crc32c"], &[]),
        ]);
        let mut catalog = catalog(&modules);
        let names_of = names(&catalog).join(" ");
        assert!(
            names_of.contains("jbd2 mbcache crc32c_generic ext4"),
            "{names_of}"
        );
        assert!(!names_of.contains("intel"));
        catalog.set_builtin_modinfo(b"crc32c_generic.alias=crc32c\0");
        assert!(!names(&catalog).contains(&"crc32c_generic"));
    }

    #[test]
    fn soft_dependencies_that_turn_in_circles_end() {
        let mut modules = VIRTIO.to_vec();
        modules.extend([
            ("k/ext4.ko", &[][..], &[][..], &["pre: a post: b"][..]),
            ("k/a.ko", &[], &[], &["pre: ext4"]),
            ("k/b.ko", &[], &[], &["pre: a"]),
        ]);
        let catalog = catalog(&modules);
        assert!(names(&catalog).contains(&"b"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let catalog = catalog(&VIRTIO[1..]);
        assert_eq!(
            boot_set(&catalog),
            Err(vec!["virtio_blk".into(), "ext4".into()])
        );
        assert_eq!(
            boot_set(&Catalog::default()).unwrap_err()[0],
            "virtio_pci or virtio_mmio"
        );
    }
}
