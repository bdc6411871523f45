//! Where kernels and modules lie in a Debian package (deb(5)) or a directory; both are read as a
//! stream, nothing is unpacked.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::KernelError;
use crate::ar::Ar;
use crate::codec::Compression;
use crate::error::{damaged, io_error};
use crate::module_tree::Item;

/// Something of interest in a package.
pub(crate) enum Found<'a> {
    /// `/boot/vmlinuz-<release>`.
    Kernel {
        /// From its name.
        release: &'a str,
    },
    /// A file or directory below `/lib/modules`.
    Module(Item<'a>),
}

type Visit<'a> = dyn FnMut(&Found<'_>, &mut dyn Read) -> Result<(), KernelError> + 'a;

/// Calls `visit` for all that is of interest in the package `input`, in its order. `path` is for
/// errors.
pub(crate) fn walk_package(
    path: &Path,
    input: impl Read,
    visit: &mut Visit<'_>,
) -> Result<(), KernelError> {
    let failed = damaged(path);
    let mut archive = Ar::new(input).map_err(&failed)?;
    while let Some(member) = archive.next_member().map_err(&failed)? {
        let compression = match &*member {
            "data.tar" => None,
            "data.tar.gz" => Some(Compression::Gzip),
            "data.tar.xz" => Some(Compression::Xz),
            "data.tar.zst" => Some(Compression::Zstd),
            "data.tar.lzma" => Some(Compression::Lzma),
            "data.tar.bz2" => {
                let compression = Compression::Bzip2;
                return Err(KernelError::Compression {
                    path: path.to_owned(),
                    compression,
                });
            }
            _ => continue,
        };
        return match compression {
            None => walk_tar(path, archive, visit),
            Some(compression) => match compression.decoder(archive).map_err(&failed)? {
                Some(decoder) => walk_tar(path, decoder, visit),
                None => Err(KernelError::Compression {
                    path: path.to_owned(),
                    compression,
                }),
            },
        };
    }
    let found = "an ar archive without the data of a Debian package".to_owned();
    Err(KernelError::NotAKernel {
        path: path.to_owned(),
        found,
    })
}

fn walk_tar(path: &Path, input: impl Read, visit: &mut Visit<'_>) -> Result<(), KernelError> {
    let failed = damaged(path);
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries().map_err(&failed)? {
        let mut entry = entry.map_err(&failed)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        let size = match (kind.is_dir(), kind.is_file()) {
            (true, _) => None,
            (_, true) => Some(entry.size()),
            _ => continue,
        };
        let seconds = entry.header().mtime().map_err(&failed)?;
        if let Some(found) = classify(&name, size, i64::try_from(seconds).unwrap_or(0)) {
            visit(&found, &mut entry)?;
        }
    }
    // To the very end, so that checksums of the compression are verified.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(failed)?;
    Ok(())
}

fn classify(name: &str, size: Option<u64>, seconds: i64) -> Option<Found<'_>> {
    let name = name
        .trim_start_matches("./")
        .trim_start_matches('/')
        .trim_end_matches('/');
    if let Some(release) = name.strip_prefix("boot/vmlinuz-") {
        return (size.is_some() && !release.contains('/')).then_some(Found::Kernel { release });
    }
    let rest = name
        .strip_prefix("usr/")
        .unwrap_or(name)
        .strip_prefix("lib/modules/")?;
    let (release, path) = rest.split_once('/').unwrap_or((rest, ""));
    if release.is_empty() || (path.is_empty() && size.is_some()) {
        return None;
    }
    Some(Found::Module(Item {
        release,
        path,
        seconds,
        size,
    }))
}

/// What a tree of modules has links to, that are none.
const SOURCES: [&str; 2] = ["build", "source"];
/// In a Nix store, trees are put together from links; they are followed within it.
const LINKED: &str = "/nix/store";
/// Deeper than any tree that does not turn in circles.
const DEEPEST: usize = 32;

/// Calls `visit` for all modules in a directory such as `/lib/modules/6.1.0`, which is named after
/// its release. Symbolic links, such as the one to the build tree, are left out.
pub(crate) fn walk_directory(root: &Path, visit: &mut Visit<'_>) -> Result<(), KernelError> {
    let resolved = root.canonicalize().map_err(io_error("read", root))?;
    let release = resolved
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut pending = vec![String::new()];
    while let Some(directory) = pending.pop() {
        let path = root.join(&directory);
        let failed = io_error("read", &path);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(&failed)? {
            names.push(
                entry
                    .map_err(&failed)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        names.sort_unstable();
        for name in names {
            let below = if directory.is_empty() {
                name
            } else {
                format!("{directory}/{name}")
            };
            let path = root.join(&below);
            let failed = io_error("read", &path);
            let mut metadata = std::fs::symlink_metadata(&path).map_err(&failed)?;
            if metadata.is_symlink() && resolved.starts_with(LINKED) && !SOURCES.contains(&&*below)
            {
                let target = path.canonicalize().map_err(&failed)?;
                if target.starts_with(LINKED) {
                    metadata = target.metadata().map_err(&failed)?;
                }
            }
            if below.split('/').count() > DEEPEST {
                return Err(failed(io::Error::other("its links turn in circles")));
            }
            let size = metadata.is_file().then_some(metadata.len());
            let item = Item {
                release: &release,
                path: &below,
                seconds: metadata.mtime(),
                size,
            };
            if metadata.is_file() {
                let mut file = File::open(&path).map_err(&failed)?;
                visit(&Found::Module(item), &mut file)?;
            } else if metadata.is_dir() {
                visit(&Found::Module(item), &mut io::empty())?;
                pending.push(below);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_packages_are_told_apart() {
        let describe = |name: &str, size| match classify(name, size, 0) {
            Some(Found::Kernel { release }) => format!("kernel {release}"),
            Some(Found::Module(item)) => format!("{} {}", item.release, item.path),
            None => String::new(),
        };
        for (name, size, expected) in [
            ("./boot/vmlinuz-6.1", Some(1), "kernel 6.1"),
            ("boot/vmlinuz-6.1", None, ""),
            ("./boot/System.map-6.1", Some(1), ""),
            ("./lib/modules/6.1/", None, "6.1 "),
            ("./lib/modules/6.1/kernel/a.ko", Some(1), "6.1 kernel/a.ko"),
            (
                "./usr/lib/modules/6.1/modules.order",
                Some(1),
                "6.1 modules.order",
            ),
            ("./lib/modules/", None, ""),
            ("./lib/modules/file", Some(1), ""),
            ("./usr/share/doc/x", Some(1), ""),
        ] {
            assert_eq!(describe(name, size), expected, "{name}");
        }
    }
}
