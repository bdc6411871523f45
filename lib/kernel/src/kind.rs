//! What a file that shall be imported is, by its content.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::KernelError;
use crate::ar::is_ar;
use crate::bzimage::{START, is_bzimage};
use crate::codec::Compression;
use crate::error::io_error;

/// What a file is, by its content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Package,
    BzImage,
    Elf,
    Compressed(Compression),
}

/// Tells what the file is; it is then at its start again. `path` is what errors call it.
pub(crate) fn detect(file: &mut File, path: &Path) -> Result<Kind, KernelError> {
    let failed = io_error("read", path);
    let not_a_kernel = |found: String| KernelError::NotAKernel {
        path: path.to_owned(),
        found,
    };
    if file.metadata().map_err(&failed)?.is_dir() {
        return Err(not_a_kernel("it is a directory".into()));
    }
    let start = read_start(file).map_err(&failed)?;
    Ok(match Compression::detect(&start) {
        _ if is_ar(&start) => Kind::Package,
        _ if is_bzimage(&start) => Kind::BzImage,
        _ if start.starts_with(b"\x7fELF") => Kind::Elf,
        Some(compression) => Kind::Compressed(compression),
        None => return Err(not_a_kernel(describe(&start))),
    })
}

/// What a file that is no kernel is, in words.
fn describe(start: &[u8]) -> String {
    let known = [
        (&b"#!"[..], 0, "it is a script"),
        (b"070701", 0, "it is a cpio archive, perhaps an initramfs"),
        (b"ustar", 257, "it is a tar archive"),
        (b"PK", 0, "it is a zip archive"),
        (
            b"MZ",
            0,
            "it is a program for Windows or EFI without a Linux header",
        ),
        (b"\xed\xab\xee\xdb", 0, "it is an RPM package"),
        (b"QFI\xfb", 0, "it is a qcow2 disk"),
        (b"\x53\xef", 0x438, "it is an ext4 file system"),
    ];
    let matches = |(magic, at, _): &&(&[u8], usize, &str)| {
        start.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    if start.is_empty() {
        "it is empty".into()
    } else if let Some((_, _, words)) = known.iter().find(matches) {
        (*words).into()
    } else if start
        .iter()
        .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
    {
        "it is text".into()
    } else {
        let hex: Vec<String> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("it starts with {}", hex.join(" "))
    }
}

/// As much as any header needs.
pub(crate) fn read_start(file: &mut File) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.rewind()?;
    file.take(START as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start)
}
