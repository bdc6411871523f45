//! Import: from a file to a kernel in the store. Everything slow happens in staging, without locks.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use lib_model::{Digest, KernelName, KernelRecord, Progress, Step};
use lib_store::{Locks, NewKernel, Staged, Store};
use sha2::{Digest as _, Sha256};

use crate::boot_set::REQUIRED;
use crate::bzimage::{BzImage, BzImageFault};
use crate::error::{damaged, io_error};
use crate::kind::{Kind, detect, read_start};
use crate::module_tree::{ModuleTree, Modules};
use crate::package::{Found, walk_directory, walk_package};
use crate::vmlinux::{self, Facts};
use crate::{BOOT_MODULES, KernelError, MODULES, VMLINUX, VMLINUZ};

/// What to import.
#[derive(Debug, Clone, Default)]
pub struct ImportKernel {
    /// A Debian package, a bzImage, or a vmlinux, plain or compressed; told by its content.
    pub source: PathBuf,
    /// Modules that are not in the source: a directory such as `/lib/modules/6.1.0`, or a package.
    pub modules: Option<PathBuf>,
    /// Its name; otherwise its release.
    pub name: Option<KernelName>,
    /// Where it came from, for people; otherwise the source's file name.
    pub origin: Option<String>,
}

/// Imports a kernel; of a file that was imported before, returns the record of then.
///
/// # Errors
/// See [`KernelError`]; nothing is left behind then.
pub fn import(
    store: &mut Store,
    locks: &mut Locks,
    request: &ImportKernel,
    progress: &dyn Progress,
) -> Result<KernelRecord, KernelError> {
    let source = &request.source;
    let failed = io_error("read", source);
    let mut file = File::open(source).map_err(&failed)?;
    let kind = detect(&mut file, source)?;
    let digest = digest(&mut file, progress).map_err(&failed)?;
    if let Some(existing) = existing(store, &digest, request)? {
        return Ok(existing);
    }
    let staged = Staged::new(store.context())?;
    let import = Import {
        directory: staged.path(),
        request,
        progress,
    };
    let new = import.run(file, &kind, &digest)?;
    let staged = staged.complete()?;
    let guard = locks.images()?;
    // Somebody may have imported the same file meanwhile.
    if let Some(existing) = existing(store, &digest, request)? {
        return Ok(existing);
    }
    let name = match &request.name {
        Some(name) => name.clone(),
        None => free_name(store, &new.release, &digest)?,
    };
    Ok(store.publish_kernel(&guard, staged, &NewKernel { name, ..new })?)
}

/// The kernel that the same request made before.
fn existing(
    store: &Store,
    digest: &Digest,
    request: &ImportKernel,
) -> Result<Option<KernelRecord>, KernelError> {
    let found = store.kernel_by_digest(digest)?;
    Ok(found.filter(|kernel| request.modules.is_none() || kernel.modules > 0))
}

/// The release, or, where another build of it has that name, the release with the digest.
fn free_name(store: &Store, release: &str, digest: &Digest) -> Result<KernelName, KernelError> {
    let name = KernelName::try_from(release)?;
    if store.kernel_names()?.iter().any(|taken| taken == release) {
        return Ok(KernelName::try_from(format!(
            "{release}-{}",
            digest.short()
        ))?);
    }
    Ok(name)
}

fn digest(file: &mut File, progress: &dyn Progress) -> io::Result<Digest> {
    file.rewind()?;
    let step = progress.step("checking kernel", Some(file.metadata()?.len()));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        step.advance(count as u64);
    }
    step.done("");
    file.rewind()?;
    Ok(Digest::from_sha256(hash.finalize().into()))
}

/// One import, into a staging directory.
struct Import<'a> {
    directory: &'a Path,
    request: &'a ImportKernel,
    progress: &'a dyn Progress,
}

impl Import<'_> {
    fn run(&self, file: File, kind: &Kind, digest: &Digest) -> Result<NewKernel, KernelError> {
        let source = &*self.request.source;
        let image_path = self.directory.join(MODULES);
        let image = point("kernel.modules.create")
            .and_then(|()| {
                File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&image_path)
            })
            .map_err(io_error("create", &image_path))?;
        let options = module_image_options(digest);
        let boot = self.directory.join(BOOT_MODULES);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&boot)
            .map_err(io_error("create", &boot))?;
        let modules_from = self.request.modules.as_deref().unwrap_or(source);
        let mut tree = ModuleTree::new(&image, &options, modules_from, self.directory)?;

        let named = self.read_source(file, kind, &mut tree)?;
        if let Some(modules) = &self.request.modules {
            self.read_modules(modules, &mut tree)?;
        }
        point("kernel.settle").map_err(io_error("write", self.directory))?;
        let facts = self.settle()?;
        let release = facts
            .release
            .clone()
            .or(named)
            .ok_or_else(|| KernelError::NotAKernel {
                path: source.to_owned(),
                found: "it does not say its release".into(),
            })?;
        point("kernel.modules.finish").map_err(io_error("write", &image_path))?;
        let modules = tree.finish(&boot)?;
        match &modules {
            Some(modules) if modules.release != release => {
                return Err(KernelError::Release {
                    path: modules_from.to_owned(),
                    found: modules.release.clone(),
                    expected: release,
                });
            }
            Some(_) => point("kernel.modules.sync")
                .and_then(|()| image.sync_all())
                .map_err(io_error("write", &image_path))?,
            None => {
                check_builtin(&facts, &release)?;
                fs::remove_file(&image_path).map_err(io_error("remove", &image_path))?;
            }
        }
        point("kernel.sync")
            .and_then(|()| File::open(&boot)?.sync_all())
            .map_err(io_error("sync", &boot))?;
        let file_name = || {
            source
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        Ok(NewKernel {
            // Replaced when the name is known; the release is checked as one there.
            name: KernelName::try_from("unnamed")?,
            release,
            architecture: "amd64".into(),
            digest: digest.clone(),
            source: self.request.origin.clone().unwrap_or_else(file_name),
            vmlinux: true,
            modules: modules.map_or(0, |Modules { count, .. }| count),
        })
    }

    /// Brings the kernel into staging as it is, and modules into the tree. Returns the release
    /// that the source's names tell.
    fn read_source(
        &self,
        file: File,
        kind: &Kind,
        tree: &mut ModuleTree<'_>,
    ) -> Result<Option<String>, KernelError> {
        let source = &*self.request.source;
        let target = self.directory.join(VMLINUZ);
        let (input, step) = self.follow(file, "unpacking kernel", source)?;
        let mut release = None;
        if *kind == Kind::Package {
            let mut modules = false;
            walk_package(source, input, &mut |found, content| match found {
                Found::Module(item) => {
                    modules = true;
                    tree.add(item, content)
                }
                Found::Kernel { release: found } => {
                    if let Some(expected) = release.replace((*found).to_owned()) {
                        let (path, found) = (source.to_owned(), (*found).to_owned());
                        return Err(KernelError::Release {
                            path,
                            found,
                            expected,
                        });
                    }
                    copy(content, &target, source)
                }
            })?;
            if release.is_none() {
                return Err(KernelError::NoKernel {
                    path: source.to_owned(),
                    modules,
                });
            }
        } else {
            copy(&mut { input }, &target, source)?;
        }
        step.done("");
        Ok(release)
    }

    fn read_modules(&self, path: &Path, tree: &mut ModuleTree<'_>) -> Result<(), KernelError> {
        let mut visit = |found: &Found<'_>, content: &mut dyn Read| match found {
            Found::Module(item) => tree.add(item, content),
            Found::Kernel { .. } => Ok(()),
        };
        if path.is_dir() {
            let step = self.progress.step("reading modules", None);
            walk_directory(path, &mut visit)?;
            step.done("");
            return Ok(());
        }
        let file = File::open(path).map_err(io_error("read", path))?;
        let (input, step) = self.follow(file, "unpacking modules", path)?;
        walk_package(path, input, &mut visit)?;
        step.done("");
        Ok(())
    }

    /// Makes `vmlinux` of what is in staging, and keeps `vmlinuz` only if it is a bzImage.
    fn settle(&self) -> Result<Facts, KernelError> {
        let source = &*self.request.source;
        let came = self.directory.join(VMLINUZ);
        let target = self.directory.join(VMLINUX);
        let failed = io_error("read", &came);
        let mut file = File::open(&came).map_err(&failed)?;
        match detect(&mut file, &came).map_err(|error| rename(error, source))? {
            Kind::Package => {
                let found = "a package within a package".to_owned();
                return Err(KernelError::NotAKernel {
                    path: source.to_owned(),
                    found,
                });
            }
            Kind::Elf => fs::rename(&came, &target).map_err(io_error("rename", &came))?,
            Kind::Compressed(compression) => {
                let decoder = compression.decoder(file).map_err(damaged(source))?;
                let mut decoder = decoder.ok_or_else(|| KernelError::Compression {
                    path: source.to_owned(),
                    compression,
                })?;
                copy(&mut decoder, &target, source)?;
                fs::remove_file(&came).map_err(io_error("remove", &came))?;
            }
            Kind::BzImage => {
                let start = read_start(&mut file).map_err(&failed)?;
                let size = file.metadata().map_err(&failed)?.len();
                let payload = |fault| payload_error(source, fault);
                let image = BzImage::parse(&start, size).map_err(payload)?;
                let mut output = File::create_new(&target).map_err(io_error("write", &target))?;
                image.extract(&mut file, &mut output).map_err(payload)?;
                point("kernel.vmlinux.sync")
                    .and_then(|()| output.sync_all())
                    .map_err(io_error("write", &target))?;
                let mut facts = self.examine(&target)?;
                facts.release = image.release.or(facts.release);
                return Ok(facts);
            }
        }
        self.examine(&target)
    }

    fn examine(&self, path: &Path) -> Result<Facts, KernelError> {
        let mut file = File::open(path).map_err(io_error("read", path))?;
        vmlinux::examine(&mut file, &self.request.source)
    }

    /// A reader that reports how far it is.
    fn follow(
        &self,
        file: File,
        label: &str,
        path: &Path,
    ) -> Result<(impl Read + use<>, std::rc::Rc<dyn Step>), KernelError> {
        let total = file.metadata().map_err(io_error("read", path))?.len();
        let step: std::rc::Rc<dyn Step> = self.progress.step(label, Some(total)).into();
        let input = Followed {
            input: file,
            step: step.clone(),
        };
        Ok((BufReader::with_capacity(256 << 10, input), step))
    }
}

struct Followed {
    input: File,
    step: std::rc::Rc<dyn Step>,
}

impl Read for Followed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.step.advance(count as u64);
        Ok(count)
    }
}

/// Without modules, all that the guest cannot do without must be built in.
fn check_builtin(facts: &Facts, release: &str) -> Result<(), KernelError> {
    let missing: Vec<String> = REQUIRED
        .iter()
        .filter(|n| !facts.drivers.contains(*n))
        .map(|n| (*n).to_owned())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(KernelError::Drivers {
        release: release.to_owned(),
        missing,
        modules: false,
    })
}

fn module_image_options(digest: &Digest) -> lib_fs::Options {
    let mut uuid = [0; 16];
    let hex = digest.hex().as_bytes();
    for (byte, pair) in uuid.iter_mut().zip(hex.chunks_exact(2)) {
        let text = std::str::from_utf8(pair).unwrap_or_default();
        *byte = u8::from_str_radix(text, 16).unwrap_or_default();
    }
    // RFC 9562: a version 8 UUID is free-form but for these six bits.
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    lib_fs::Options {
        label: "banger-modules".into(),
        uuid,
        journal: false,
        ..lib_fs::Options::default()
    }
}

/// Copies all of `input`; a failure to read is the fault of `source`.
fn copy(input: &mut dyn Read, target: &Path, source: &Path) -> Result<(), KernelError> {
    let failed = io_error("write", target);
    let mut output = File::create_new(target).map_err(&failed)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = input.read(&mut buffer).map_err(damaged(source))?;
        if count == 0 {
            return output.sync_all().map_err(failed);
        }
        output.write_all(&buffer[..count]).map_err(&failed)?;
    }
}

/// Errors speak of what the user gave, not of its copy in staging.
fn rename(error: KernelError, source: &Path) -> KernelError {
    match error {
        KernelError::NotAKernel { found, .. } => KernelError::NotAKernel {
            path: source.to_owned(),
            found,
        },
        other => other,
    }
}

fn payload_error(path: &Path, fault: BzImageFault) -> KernelError {
    let reason = fault.to_string();
    let source = match fault {
        BzImageFault::Payload(source) => Some(source),
        _ => None,
    };
    KernelError::Payload {
        path: path.to_owned(),
        reason,
        source,
    }
}
