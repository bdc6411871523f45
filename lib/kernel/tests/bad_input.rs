//! Files that are no kernels, or not usable ones: what was found is named, nothing is kept.

#![allow(clippy::unwrap_used)] // Tests, with helpers outside of test functions.

use std::fs;
use std::path::Path;

use lib_kernel::{ImportKernel, KernelError, import};
use lib_model::{Diagnose, Exit, KernelRecord, Silent};
use lib_store::{Context, Locks, Store};

struct Scratch {
    directory: tempfile::TempDir,
    context: Context,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        let context = Context::from_environment(Some(&store), |_| None).unwrap();
        Scratch { directory, context }
    }

    fn import(&self, name: &str, content: &[u8]) -> Result<KernelRecord, KernelError> {
        let source = self.directory.path().join(name);
        fs::write(&source, content).unwrap();
        self.import_path(&source, None)
    }

    fn import_path(
        &self,
        source: &Path,
        modules: Option<&Path>,
    ) -> Result<KernelRecord, KernelError> {
        let mut store = Store::open(&self.context).unwrap();
        let mut locks = Locks::new(&self.context, |_, _| {});
        let request = ImportKernel {
            source: source.to_owned(),
            modules: modules.map(Path::to_owned),
            ..ImportKernel::default()
        };
        import(&mut store, &mut locks, &request, &Silent)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for place in ["kernels", "staging"] {
            let left: Vec<_> = fs::read_dir(self.context.data().join(place))
                .unwrap()
                .flatten()
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// An x86-64 executable with one PT_LOAD and this text in it.
fn vmlinux(text: &str) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[16] = 2;
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1;
    elf[64 + 32] = 120;
    elf.extend(text.as_bytes());
    elf
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 5 * 512];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend(payload);
    image
}

/// A Debian package whose data holds these files.
fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        data.append_data(&mut header, path, *content).unwrap();
    }
    let data = zstd::encode_all(&data.into_inner().unwrap()[..], 1).unwrap();
    ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"-"),
        ("data.tar.zst", &data),
    ])
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let size = content.len();
        archive.extend(format!("{name:<16}0           0     0     100644  {size:<10}`\n").bytes());
        archive.extend(*content);
        archive.resize(archive.len().next_multiple_of(2), b'\n');
    }
    archive
}

/// A module that says nothing of itself.
fn module() -> Vec<u8> {
    let mut elf = vec![0; 128];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[16] = 1;
    elf[18] = 62;
    elf[40] = 64;
    elf[58] = 64;
    elf[60] = 1;
    elf
}

#[test]
fn what_is_no_kernel_is_named() {
    let scratch = Scratch::new();
    for (content, expected) in [
        (&b""[..], "is not a kernel: it is empty"),
        (b"#!/bin/sh\n", "is not a kernel: it is a script"),
        (b"hello\nworld\n", "is not a kernel: it is text"),
        (b"070701000000", "is not a kernel: it is a cpio archive"),
        (
            b"\x00\x01\x02\x03\x04\x05\x06\x07\x08",
            "it starts with 00 01 02 03 04 05 06 07",
        ),
        (
            &ar(&[("x", b"y")]),
            "an ar archive without the data of a Debian package",
        ),
        (
            &vmlinux("no banner"),
            "an ELF program without a Linux version in it",
        ),
    ] {
        let error = scratch.import("file", content).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint().unwrap().contains(".deb"));
    }
    let error = scratch
        .import_path(scratch.directory.path(), None)
        .unwrap_err();
    assert!(error.to_string().ends_with("it is a directory"), "{error}");
    let error = scratch
        .import_path(Path::new("/nowhere/vmlinuz"), None)
        .unwrap_err();
    assert_eq!(error.exit(), Exit::NotFound);
}

#[test]
fn elf_files_that_cannot_be_booted_say_why() {
    let scratch = Scratch::new();
    let fine = vmlinux("Linux version 6.1.0 (x)");
    let mut bits32 = fine.clone();
    bits32[4] = 1;
    let mut arm = fine.clone();
    arm[18] = 183;
    for (content, expected) in [
        (&bits32[..], "it is a 32-bit ELF file"),
        (&arm, "it is for another processor (ELF machine 183)"),
        (&fine[..100], "it is cut short or damaged"),
        (&module(), "it is an object file"),
    ] {
        let error = scratch.import("vmlinux", content).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn compressions_that_are_only_recognised_are_named() {
    let scratch = Scratch::new();
    let error = scratch
        .import("vmlinuz", &bzimage(b"BZh91AY&SY...."))
        .unwrap_err();
    assert!(
        error.to_string().contains("compressed with bzip2"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("extract-vmlinux"));
    let error = scratch.import("vmlinux.lzo", b"\x89LZO\0\r\n").unwrap_err();
    assert!(matches!(error, KernelError::Compression { .. }), "{error}");
    let error = scratch
        .import("vmlinuz", &bzimage(b"nonsense"))
        .unwrap_err();
    assert!(error.to_string().contains("6e 6f 6e 73"), "{error}");
    let old = ar(&[("data.tar.bz2", b"BZh")]);
    let error = scratch.import("old.deb", &old).unwrap_err();
    assert!(matches!(error, KernelError::Compression { .. }), "{error}");
}

#[test]
fn packages_without_what_is_needed_say_what() {
    let scratch = Scratch::new();
    let kernel = vmlinux("Linux version 6.1.0 (x)");
    let error = scratch
        .import("a.deb", &package(&[("usr/share/doc/x", b"")]))
        .unwrap_err();
    assert!(
        matches!(&error, KernelError::NoKernel { modules: false, .. }),
        "{error}"
    );
    let only_modules = [("lib/modules/6.1.0/kernel/a.ko", &module()[..])];
    let error = scratch
        .import("b.deb", &package(&only_modules))
        .unwrap_err();
    assert!(error.hint().unwrap().contains("--modules"), "{error}");

    // No virtio_blk, neither as a module nor built in.
    let mut files = vec![
        ("boot/vmlinuz-6.1.0", &kernel[..]),
        (
            "lib/modules/6.1.0/modules.builtin",
            b"kernel/fs/ext4/ext4.ko\n",
        ),
    ];
    let module = module();
    for name in ["virtio_mmio", "virtio_console", "overlay"] {
        files.push((
            Box::leak(format!("lib/modules/6.1.0/k/{name}.ko").into_boxed_str()),
            &module,
        ));
    }
    let error = scratch.import("c.deb", &package(&files)).unwrap_err();
    assert_eq!(error.to_string(), "the kernel 6.1.0 lacks virtio_blk");
    assert!(error.hint().unwrap().contains("cloud"));

    let two = [
        ("boot/vmlinuz-6.1.0", &kernel[..]),
        ("boot/vmlinuz-6.2.0", &kernel),
    ];
    let error = scratch.import("d.deb", &package(&two)).unwrap_err();
    assert!(matches!(&error, KernelError::Release { .. }), "{error}");
    files.push(("lib/modules/6.2.0/k/virtio_blk.ko", &module));
    let error = scratch.import("e.deb", &package(&files)).unwrap_err();
    assert!(
        error.to_string().contains("is for kernel 6.2.0, not 6.1.0"),
        "{error}"
    );
    files.pop();
    files.push(("lib/modules/6.1.0/k/virtio_blk.ko", b"no module"));
    let error = scratch.import("f.deb", &package(&files)).unwrap_err();
    assert!(
        error.to_string().contains("k/virtio_blk.ko is damaged"),
        "{error}"
    );
}

#[test]
fn paths_that_would_leave_the_image_are_refused() {
    let scratch = Scratch::new();
    let mut data = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let name = b"lib/modules/6.1.0/../../../../etc/passwd";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    data.append(&header, &b""[..]).unwrap();
    let archive = ar(&[("data.tar", &data.into_inner().unwrap())]);
    let error = scratch.import("evil.deb", &archive).unwrap_err();
    assert!(matches!(&error, KernelError::Image(_)), "{error}");
}

#[test]
fn a_complete_package_passes_and_two_builds_of_one_release_get_two_names() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let context = Context::from_environment(Some(&store), |_| None).unwrap();
    let scratch = Scratch { directory, context };
    let module = module();
    let mut names = Vec::new();
    for build in ["#1", "#2"] {
        let kernel = vmlinux(&format!("Linux version 6.1.0 (x) {build}"));
        let files = [
            (
                "boot/vmlinuz-6.1.0",
                &zstd::encode_all(&kernel[..], 1).unwrap()[..],
            ),
            (
                "lib/modules/6.1.0/modules.builtin",
                b"k/ext4.ko\nk/virtio_pci.ko\n",
            ),
            ("lib/modules/6.1.0/k/virtio_blk.ko", &module),
            (
                "lib/modules/6.1.0/k/virtio_console.ko.zst",
                &zstd::encode_all(&module[..], 1).unwrap(),
            ),
            ("lib/modules/6.1.0/k/overlay.ko", &module),
        ];
        let record = scratch.import("x.deb", &package(&files)).unwrap();
        assert_eq!((record.modules, &*record.release), (3, "6.1.0"));
        assert_eq!(
            fs::read(lib_kernel::vmlinux(&scratch.context, &record)).unwrap(),
            kernel
        );
        let boot = scratch
            .context
            .kernel(&record.id)
            .join("boot-modules/01-virtio_console.ko");
        assert_eq!(fs::read(boot).unwrap(), module);
        names.push(record.name.to_string());
    }
    assert_eq!(names[0], "6.1.0");
    assert!(
        names[1].starts_with("6.1.0-") && names[1].len() == 18,
        "{names:?}"
    );
    let mut store = Store::open(&scratch.context).unwrap();
    let mut locks = Locks::new(&scratch.context, |_, _| {});
    for kernel in store.kernels().unwrap() {
        let trash = store.delete_kernel(&locks.images().unwrap(), &kernel);
        drop(trash.unwrap());
    }
}
