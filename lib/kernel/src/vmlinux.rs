//! What an uncompressed kernel tells about itself: that it can be booted, its release, and which
//! drivers are built in.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use memchr::memmem::Finder;

use crate::boot_set::REQUIRED;
use crate::bzimage::first_word;
use crate::elf;
use crate::error::io_error;
use crate::{ElfFault, KernelError};

const BANNER: &[u8] = b"Linux version ";
const START: u64 = 64 << 10;
const CHUNK: usize = 1 << 20;
/// No needle and no release is longer.
const OVERLAP: usize = 256;

/// What was found in the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `uname -r`.
    pub(crate) release: Option<String>,
    /// Those of [`REQUIRED`] whose name is in it; a driver that is a module leaves no trace.
    pub(crate) drivers: BTreeSet<&'static str>,
}

/// Checks and reads the kernel in `file`; `source` is what errors call it.
pub(crate) fn examine(file: &mut File, source: &Path) -> Result<Facts, KernelError> {
    let failed = io_error("read", source);
    let length = file.metadata().map_err(&failed)?.len();
    let mut start = Vec::new();
    file.rewind().map_err(&failed)?;
    file.by_ref()
        .take(START)
        .read_to_end(&mut start)
        .map_err(&failed)?;
    let fault = |fault: ElfFault| KernelError::Elf {
        path: source.to_owned(),
        fault,
    };
    elf::program(&start, length).map_err(fault)?;
    file.rewind().map_err(&failed)?;
    let facts = scan(file, &REQUIRED).map_err(&failed)?;
    if facts.release.is_none() {
        let found = "an ELF program without a Linux version in it".to_owned();
        return Err(KernelError::NotAKernel {
            path: source.to_owned(),
            found,
        });
    }
    Ok(facts)
}

/// Those of `names` that are drivers of the kernel in `input`; one that is a module leaves no trace.
pub(crate) fn drivers(
    input: impl Read,
    names: &[&'static str],
) -> io::Result<BTreeSet<&'static str>> {
    Ok(scan(input, names)?.drivers)
}

fn scan(mut input: impl Read, names: &[&'static str]) -> io::Result<Facts> {
    let banner = Finder::new(BANNER);
    // A driver registers under its name, which the compiler keeps as a C string.
    let finder = |name: &&'static str| (*name, Finder::new(&format!("{name}\0")).into_owned());
    let drivers: Vec<_> = names.iter().map(finder).collect();
    let mut facts = Facts::default();
    let mut window = Vec::with_capacity(CHUNK + OVERLAP);
    loop {
        let kept = window.len();
        input.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
        for (name, finder) in &drivers {
            if !facts.drivers.contains(name) && finder.find(&window).is_some() {
                facts.drivers.insert(name);
            }
        }
        if facts.release.is_none() {
            facts.release = banner
                .find_iter(&window)
                .find_map(|at| first_word(&window[at + BANNER.len()..]));
        }
        if window.len() == kept {
            return Ok(facts);
        }
        window.drain(..window.len().saturating_sub(OVERLAP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banner_and_drivers_are_found_across_chunks() {
        for offset in [0, 100, CHUNK - 20, CHUNK - 1, 3 * CHUNK + 5] {
            let mut bytes = b"Linux version %s".to_vec();
            bytes.resize(bytes.len() + offset, 1);
            bytes.extend(b"Linux version 6.12.0-x+ (gcc) #1\0virtio_blk\0ext4 \0");
            bytes.resize(bytes.len() + 3 * CHUNK, 0);
            let facts = scan(&bytes[..], &REQUIRED).unwrap();
            assert_eq!(facts.release.as_deref(), Some("6.12.0-x+"), "{offset}");
            assert_eq!(facts.drivers, BTreeSet::from(["virtio_blk"]));
        }
    }
}
