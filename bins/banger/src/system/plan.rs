//! What is installed where, before anything is done.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lib_cli::Failure;
use lib_model::Exit;
use sha2::{Digest, Sha256};

use super::units::{NETWORK_MANAGER, Offer, UNITS};

const WHOLE_TREE: &str =
    "install from a whole tree: `cargo xtask build --release` makes one in target/release";

/// Where a machine is installed to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The machine's root directory.
    pub(crate) root: PathBuf,
    /// Below it, where programs go.
    pub(crate) prefix: PathBuf,
}

/// A file that is to be there.
pub(crate) struct File {
    /// As the machine itself will see it.
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

impl File {
    pub(crate) fn digest(&self) -> String {
        digest(&self.content)
    }
}

pub(crate) fn digest(content: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(content) {
        // Memory does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Place {
    /// A path of the machine, as we see it.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The list of what was installed, as the machine sees it: a digest and a path in each line.
    pub(crate) fn list(&self) -> PathBuf {
        self.prefix.join("share/banger/installed")
    }

    /// All files: programs, helpers, manual and completions of the tree that `program` is in, and units, with drop-ins
    /// for what is offered.
    ///
    /// # Errors
    /// Programs or helpers that are not beside it.
    pub(crate) fn files(&self, program: &Path, offers: &[Offer]) -> Result<Vec<File>, Failure> {
        let bin = program.parent().unwrap_or(Path::new("/"));
        let tree = bin.parent().unwrap_or(Path::new("/"));
        let mut files = Vec::new();
        let list = |directory: &Path| {
            ours(directory).map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format!("cannot list {}: {error}", directory.display()),
                )
                .hint(WHOLE_TREE)
            })
        };
        let helpers = list(&tree.join("libexec/banger"))?;
        for name in &helpers {
            let place = Path::new("libexec/banger").join(name);
            self.add(&mut files, &tree.join(&place), &place, 0o755)?;
        }
        // Where cargo builds for developers, helpers are beside the programs, too.
        for name in list(bin)?.iter().filter(|name| !helpers.contains(name)) {
            self.add(
                &mut files,
                &bin.join(name),
                &Path::new("bin").join(name),
                0o755,
            )?;
        }
        for place in shared(tree).map_err(|error| Failure::io("list what is shared", error))? {
            self.add(&mut files, &tree.join(&place), &place, 0o644)?;
        }
        let more = self.at(Path::new("/etc/NetworkManager")).is_dir();
        let drop_ins = offers.iter().filter_map(|offer| offer.drop_in());
        let units = UNITS.iter().chain(more.then_some(&NETWORK_MANAGER));
        for unit in units.chain(drop_ins) {
            files.push(File {
                path: self.prefix.join(unit.place),
                content: unit.text(&self.prefix).into_bytes(),
                mode: 0o644,
            });
        }
        Ok(files)
    }

    fn add(&self, files: &mut Vec<File>, from: &Path, to: &Path, mode: u32) -> Result<(), Failure> {
        let content = fs::read(from).map_err(|error| {
            let message = format!("cannot read {}: {error}", from.display());
            Failure::new(Exit::Failed, message).hint(WHOLE_TREE)
        })?;
        files.push(File {
            path: self.prefix.join(to),
            content,
            mode,
        });
        Ok(())
    }
}

/// Executables of banger in a directory, by name.
fn ours(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stem = name == "banger" || name.starts_with("banger-");
        let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
        if stem && executable && !name.contains('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Manual and completions of the tree; a build without them is no less a build.
fn shared(tree: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("share")];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(tree.join(&directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let place = directory.join(entry.file_name());
            let name = entry.file_name();
            let ours = name.to_string_lossy().contains("banger");
            if entry.file_type()?.is_dir() {
                directories.push(place);
            } else if ours && !place.starts_with("share/banger") {
                found.push(place);
            }
        }
    }
    found.sort();
    Ok(found)
}
