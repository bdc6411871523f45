//! Images from files: OCI layouts, OCI and docker archives, root file system archives.
//!
//! What an input is, is told by its content. Streams are read once: members are spooled into
//! staging under numbers, so that no name in an archive ever becomes a path on the host.

mod archive;
mod detect;
mod disk;
mod docker;
mod layout;
mod nix;
mod rootfs;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lib_model::{Digest, Filesystem, ImageRecord, OciConfig, Progress, Reference};
use lib_store::{Locks, Staged, Store};

pub use self::nix::{NixImage, import_nix, import_program};
use crate::blobs::Blobs;
use crate::build::{How, Plan, build};
use crate::layer::{Bounded, Compression, CountingReader, compression, unpack};
use crate::limits::Unpacked;
use crate::manifest::Descriptor;
use crate::pins::Pins;
use crate::publish::{Wanted, name_existing, publish, tag};
use crate::{Error, Limits, Platform, Size, space};
use archive::Spool;
use detect::Form;
use layout::Directory;

/// Where an image comes from.
pub enum Input<'a> {
    /// A file or an OCI layout directory.
    Path(PathBuf),
    /// A stream, and what it is called in messages and in the image's record.
    Stream {
        /// Such as `standard input`.
        name: String,
        /// Read once, to its end.
        reader: Box<dyn Read + 'a>,
    },
}

/// What to import, and how.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// The image's name; without one, the names in the archive.
    pub name: Option<Reference>,
    /// Which image of an index; what a root file system archive is for.
    pub platform: Platform,
    /// Name or digest of one image among several.
    pub select: Option<String>,
    /// How to run a root file system archive, which says nothing of that itself.
    pub run: OciConfig,
    /// Bounds.
    pub limits: Limits,
    /// Size of the file system.
    pub size: Size,
    /// What the image is made as.
    pub filesystem: Filesystem,
    /// Free space is not looked at, neither before the input is read nor before the image is made.
    pub ignore_space: bool,
}

/// Imports an image. The same content gives the same digest, and is not built twice.
///
/// # Errors
/// See [`Error`]. Nothing is published then.
pub fn import(
    store: &mut Store,
    locks: &mut Locks,
    input: Input<'_>,
    request: &ImportRequest,
    progress: &dyn Progress,
) -> Result<ImageRecord, Error> {
    check_run(&request.run)?;
    if let Input::Path(path) = &input
        && let Some(file) = ext4(path)?
    {
        return disk::import(store, locks, (path, file), request, progress);
    }
    request.size.check(request.filesystem)?;
    let blobs = Blobs::open(store.context())?;
    let mut import = Import {
        pins: Pins::new(store.context())?,
        locks,
        blobs: &blobs,
        request,
    };
    let found = match input {
        Input::Path(path) => import.path(&path, progress)?,
        Input::Stream { name, reader } => import.stream(&name, reader, None, progress)?,
    };
    let Import { pins, locks, .. } = import;
    let mut names = match &request.name {
        Some(name) => vec![name.familiar()],
        None => found.names,
    }
    .into_iter();
    let first = names.next();
    let plan = &found.plan;
    let wanted = Wanted::of(&plan.manifest, request.size, request.filesystem);
    let record = match name_existing(store, locks, wanted, first.as_deref())? {
        Some(record) => record,
        None => {
            if !request.ignore_space {
                let needed = space::estimate(&plan.layers, 0);
                space::check(store.context().data(), &plan.name, needed)?;
            }
            let built = Staged::new(store.context())?;
            let open = |layer: &Descriptor| -> io::Result<Box<dyn Read + Send>> {
                Ok(Box::new(File::open(blobs.path(&layer.digest))?))
            };
            let how = How {
                limits: &request.limits,
                size: request.size,
                filesystem: request.filesystem,
            };
            let new = build(plan, &built, &open, how, progress)?;
            publish(store, locks, built, &new, wanted, first.as_deref())?
        }
    };
    drop(pins);
    let mut changed = record.changed;
    for name in names.filter_map(|name| Reference::try_from(name).ok()) {
        changed |= tag(store, locks, record.id.as_str(), &name)?.changed;
    }
    Ok(ImageRecord {
        changed,
        ..store.image(record.id.as_str())?
    })
}

/// The file, when it is an ext4 file system.
fn ext4(path: &Path) -> Result<Option<File>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    Ok(Some(file).filter(disk::is_ext4))
}

/// What an input turned out to hold; its blobs are in the store.
struct Found {
    plan: Plan,
    names: Vec<String>,
}

/// One import under way.
struct Import<'a> {
    pins: Pins,
    locks: &'a mut Locks,
    blobs: &'a Blobs,
    request: &'a ImportRequest,
}

impl Import<'_> {
    /// Pins blobs before they are looked for or stored.
    fn pin<'b>(&mut self, digests: impl IntoIterator<Item = &'b Digest>) -> Result<(), Error> {
        self.pins.pin(self.locks, digests)
    }

    fn path(&mut self, path: &Path, progress: &dyn Progress) -> Result<Found, Error> {
        let what = path.to_string_lossy();
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if metadata.is_dir() {
            self.refuse_run(&what)?;
            return layout::import(self, &mut Directory::open(path)?, &what);
        }
        let length = metadata.is_file().then_some(metadata.len());
        self.stream(&what, Box::new(file), length, progress)
    }

    fn stream(
        &mut self,
        what: &str,
        mut reader: Box<dyn Read + '_>,
        length: Option<u64>,
        progress: &dyn Progress,
    ) -> Result<Found, Error> {
        let archive = |source: io::Error| match source.downcast::<Error>() {
            Ok(ours) => ours,
            Err(source) => Error::Archive {
                what: what.to_owned(),
                source,
            },
        };
        let step = progress.step(&format!("reading {what}"), length);
        let mut head = Vec::new();
        (&mut reader)
            .take(detect::HEAD)
            .read_to_end(&mut head)
            .map_err(archive)?;
        let form = detect::form(&head, what)?;
        if let (Some(length), false) = (length, self.request.ignore_space) {
            // What is read is kept, and comes again as the file system.
            let packed = compression(&head) != Compression::None;
            let needed = space::unpacked(length, packed).saturating_add(length);
            space::check(self.pins.staged().path(), what, needed)?;
        }
        let counting = CountingReader {
            inner: io::Cursor::new(head).chain(reader),
            step: &*step,
        };
        let whole = Bounded {
            inner: counting,
            read: 0,
            limits: &self.request.limits,
            what,
        };
        let found = match form {
            Form::RootFs => rootfs::import(self, whole, what)?,
            Form::Archive => {
                self.refuse_run(what)?;
                let limits = &self.request.limits;
                let unpacked = Arc::new(Unpacked::default());
                let tar = unpack(whole, what, unpacked, limits).map_err(archive)?;
                let mut spool = Spool::read(tar, self.pins.staged(), what, limits)?;
                if spool.is_oci() {
                    layout::import(self, &mut spool, what)?
                } else {
                    docker::import(self, &mut spool, what)?
                }
            }
        };
        step.done("");
        Ok(found)
    }

    fn refuse_run(&self, what: &str) -> Result<(), Error> {
        let run = &self.request.run;
        let given = [
            ("--entrypoint", !run.entrypoint.is_empty()),
            ("--cmd", !run.cmd.is_empty()),
            ("--env", !run.env.is_empty()),
            ("--user", !run.user.is_empty()),
            ("--workdir", !run.working_dir.is_empty()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(Error::OptionUnused {
                option,
                what: what.to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn source(&self, form: &str, what: &str) -> String {
        format!("{form} {what}")
    }
}

fn check_run(run: &OciConfig) -> Result<(), Error> {
    let value = |option, value: &str, reason| {
        Err(Error::OptionValue {
            option,
            value: value.to_owned(),
            reason,
        })
    };
    for pair in &run.env {
        if pair.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return value("--env", pair, "is not NAME=value");
        }
    }
    if !run.working_dir.is_empty() && !run.working_dir.starts_with('/') {
        return value("--workdir", &run.working_dir, "is not an absolute path");
    }
    Ok(())
}

/// The name an archive gives an image, when it is one that can be used: with a repository.
fn usable_name(name: &str) -> Option<String> {
    if !name.contains(['/', ':']) {
        return None;
    }
    Reference::try_from(name)
        .ok()
        .map(|reference| reference.familiar())
}
