//! Modules on their way from a package or directory into the module image, one at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use lib_fs::{Attributes, Builder, Options, Time};

use crate::boot_set::boot_set;
use crate::catalog::{Catalog, is_generated};
use crate::codec::Compression;
use crate::error::{damaged, io_error};
use crate::modinfo::{Modinfo, name_of_path};
use crate::{ElfFault, KernelError};

/// More than any file in a module tree.
const LARGEST: u64 = 256 << 20;

/// Writes the module image and keeps what the boot set may need.
pub(crate) struct ModuleTree<'a> {
    builder: Builder<'a>,
    /// The package or directory, for errors.
    source: &'a Path,
    release: Option<String>,
    catalog: Catalog,
    /// All modules, uncompressed: which of them the guest boots with is known only at the end.
    scratch: File,
    /// Place and length in `scratch`, by index in the catalogue.
    places: Vec<(u64, u64)>,
}

/// A file or directory on its way in.
pub(crate) struct Item<'a> {
    /// Kernel release that it belongs to.
    pub(crate) release: &'a str,
    /// Path below the release; empty for the release itself.
    pub(crate) path: &'a str,
    /// Modification time, seconds since 1970.
    pub(crate) seconds: i64,
    /// Length of a file; nothing for a directory.
    pub(crate) size: Option<u64>,
}

/// What a finished tree had.
pub(crate) struct Modules {
    pub(crate) release: String,
    pub(crate) count: u64,
}

impl<'a> ModuleTree<'a> {
    /// Begins a tree in the empty file `image`. `directory` holds a scratch file that nobody sees.
    pub(crate) fn new(
        image: &'a File,
        options: &'a Options,
        source: &'a Path,
        directory: &Path,
    ) -> Result<Self, KernelError> {
        let scratch = tempfile::tempfile_in(directory).map_err(io_error("write in", directory))?;
        Ok(ModuleTree {
            builder: Builder::new(image, options)?,
            source,
            release: None,
            catalog: Catalog::default(),
            scratch,
            places: Vec::new(),
        })
    }

    /// Adds one file or directory.
    pub(crate) fn add(&mut self, item: &Item<'_>, input: &mut dyn Read) -> Result<(), KernelError> {
        match &self.release {
            None => self.release = Some(item.release.to_owned()),
            Some(release) if release != item.release => {
                return Err(KernelError::Release {
                    path: self.source.to_owned(),
                    found: item.release.to_owned(),
                    expected: release.clone(),
                });
            }
            Some(_) => {}
        }
        let target = format!("{}/{}", item.release, item.path);
        let target = target.trim_end_matches('/').as_bytes();
        let mut attributes = Attributes::new(if item.size.is_some() { 0o644 } else { 0o755 });
        attributes.mtime = Time {
            seconds: item.seconds,
            nanos: 0,
        };
        let Some(size) = item.size else {
            return Ok(self.builder.directory(target, &attributes)?);
        };
        if is_generated(item.path) {
            return Ok(());
        }
        if size > LARGEST {
            return Err(KernelError::TooLarge {
                path: self.source.to_owned(),
                file: item.path.to_owned(),
                size,
                limit: LARGEST,
            });
        }
        let mut content = Vec::new();
        input
            .take(LARGEST)
            .read_to_end(&mut content)
            .map_err(damaged(self.source))?;
        self.builder
            .file(target, &attributes, content.len() as u64, &content[..])?;
        self.learn(item.path, content)
    }

    fn learn(&mut self, path: &str, content: Vec<u8>) -> Result<(), KernelError> {
        match path {
            "modules.builtin" => self.catalog.set_builtin(&String::from_utf8_lossy(&content)),
            "modules.builtin.modinfo" => self.catalog.set_builtin_modinfo(&content),
            "modules.order" => self.catalog.set_order(&String::from_utf8_lossy(&content)),
            _ => {}
        }
        let Some(name) = name_of_path(path) else {
            return Ok(());
        };
        let content = self.uncompressed(path, content)?;
        let fault = |fault: ElfFault| KernelError::Module {
            module: path.to_owned(),
            fault,
        };
        let info = Modinfo::read(&content).map_err(fault)?;
        let failed = io_error("keep modules of", self.source);
        let start = self.scratch.stream_position().map_err(&failed)?;
        self.scratch.write_all(&content).map_err(&failed)?;
        self.catalog.add(path.to_owned(), name, info);
        self.places.push((start, content.len() as u64));
        Ok(())
    }

    fn uncompressed(&self, path: &str, content: Vec<u8>) -> Result<Vec<u8>, KernelError> {
        if path.ends_with(".ko") {
            return Ok(content);
        }
        let mut plain = Vec::new();
        match Compression::detect(&content) {
            None => return Ok(content),
            Some(compression) => compression
                .decoder(&content[..])
                .map_err(damaged(self.source))?
                .ok_or_else(|| KernelError::Compression {
                    path: self.source.join(path),
                    compression,
                })?
                .take(LARGEST)
                .read_to_end(&mut plain)
                .map_err(damaged(self.source))?,
        };
        Ok(plain)
    }

    /// Completes the image, and writes the modules to boot with into `boot` as `NN-name.ko`.
    /// Nothing when there were no modules.
    pub(crate) fn finish(mut self, boot: &Path) -> Result<Option<Modules>, KernelError> {
        let Some(release) = self.release.take().filter(|_| self.catalog.len() > 0) else {
            return Ok(None);
        };
        let set = boot_set(&self.catalog).map_err(|missing| KernelError::Drivers {
            release: release.clone(),
            missing,
            modules: true,
        })?;
        for (position, index) in set.into_iter().enumerate() {
            let path = boot.join(format!(
                "{position:02}-{}.ko",
                self.catalog.module(index).name
            ));
            let (start, length) = self.places[index];
            let failed = io_error("write", &path);
            self.scratch.seek(SeekFrom::Start(start)).map_err(&failed)?;
            let mut file = File::create_new(&path).map_err(&failed)?;
            std::io::copy(&mut (&mut self.scratch).take(length), &mut file).map_err(&failed)?;
            file.sync_all().map_err(&failed)?;
        }
        for (name, content) in self.catalog.files() {
            let path = format!("{release}/{name}");
            let attributes = Attributes::new(0o644);
            self.builder.file(
                path.as_bytes(),
                &attributes,
                content.len() as u64,
                &content[..],
            )?;
        }
        let count = self.catalog.len() as u64;
        self.builder.finish()?;
        Ok(Some(Modules { release, count }))
    }
}
