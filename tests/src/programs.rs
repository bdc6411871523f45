//! Programs of this machine in an image, with the libraries that they need.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layer::{Compression, Entry, Layer};

/// A layer with programs at the paths they have here, and everything that ldd(1) finds of each.
///
/// # Errors
/// When a program is missing.
pub fn programs(paths: &[&str]) -> io::Result<Layer> {
    let mut files = BTreeSet::new();
    for path in paths {
        files.insert(PathBuf::from(path));
        let found = Command::new("ldd").arg(path).output()?;
        for line in String::from_utf8_lossy(&found.stdout).lines() {
            // `name => /path (address)`, or `/path (address)` for the loader.
            let place = line.split("=>").last().unwrap_or(line);
            let place = place.split_whitespace().next().unwrap_or_default();
            if place.starts_with('/') {
                files.insert(PathBuf::from(place));
            }
        }
    }
    let mut directories = BTreeSet::new();
    for file in &files {
        let parents = file.ancestors().skip(1);
        directories.extend(
            parents
                .filter(|path| *path != Path::new("/"))
                .map(Path::to_owned),
        );
    }
    let name = |path: &Path| {
        path.display()
            .to_string()
            .trim_start_matches('/')
            .to_owned()
    };
    let mut entries: Vec<Entry> = directories
        .iter()
        .map(|path| Entry::Directory(format!("{}/", name(path)), 0o755))
        .collect();
    for file in &files {
        let mode = std::fs::metadata(file)?.permissions().mode() & 0o755;
        entries.push(Entry::File(name(file), mode, std::fs::read(file)?));
    }
    Layer::new(&entries, Compression::Gzip)
}
