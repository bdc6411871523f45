//! Kernels for guests: import from packages, bzImages and ELF files, the module image, and the
//! initramfs that starts the agent.
//!
//! A kernel's directory holds `vmlinux`, `vmlinuz` where a bzImage came, `modules.img` where
//! modules came, and `boot-modules/NN-name.ko`, whose names are their load order. It is written
//! once, in staging, and never changed.

mod ar;
mod boot_set;
mod bzimage;
mod catalog;
mod codec;
mod cpio;
mod elf;
mod error;
mod import;
mod initramfs;
mod kind;
mod lz4;
mod modinfo;
mod module_tree;
mod package;
mod share_drivers;
mod trie;
mod vmlinux;

use std::path::PathBuf;

use lib_model::KernelRecord;
use lib_store::Context;

pub use codec::Compression;
pub use elf::ElfFault;
pub use error::KernelError;
pub use import::{ImportKernel, import};
pub use initramfs::{base_initramfs, boot_initramfs};
pub use share_drivers::{ShareDrivers, share_drivers};

const VMLINUX: &str = "vmlinux";
const VMLINUZ: &str = "vmlinuz";
const MODULES: &str = "modules.img";
const BOOT_MODULES: &str = "boot-modules";

/// The uncompressed ELF kernel.
pub fn vmlinux(context: &Context, kernel: &KernelRecord) -> PathBuf {
    context.kernel(&kernel.id).join(VMLINUX)
}

/// The read-only ext4 image for `/lib/modules`, when the kernel has modules.
pub fn modules_image(context: &Context, kernel: &KernelRecord) -> Option<PathBuf> {
    (kernel.modules > 0).then(|| context.kernel(&kernel.id).join(MODULES))
}
