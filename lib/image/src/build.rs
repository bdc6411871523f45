//! From a manifest and its layers to a file system image in staging.
//!
//! The seam to the file system writer. Layers are opened one after the other, the topmost first,
//! so that one that still downloads may make its `open` wait. No lock is held.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Scope, scope};

use std::os::unix::fs::OpenOptionsExt;

use banger_failpoint::point;
use lib_fs::Layer;
use lib_model::{ByteSize, Digest, Filesystem, Progress, Step};
use lib_store::{NewImage, Staged};
use nix::libc;
use sha2::{Digest as _, Sha256};

use crate::ahead::ahead;
use crate::blob_writer::private_file;
use crate::config::ImageConfig;
use crate::layer::{CountingReader, DiffIdReader, unpack};
use crate::limits::Unpacked;
use crate::manifest::Descriptor;
use crate::{Error, Limits, Size, size};

/// Bytes of content after which the disk gets to work on what the page cache holds.
const WRITE_OUT: u64 = 64 << 20;

/// An image that can be built.
pub(crate) struct Plan {
    /// For errors: reference or file.
    pub(crate) name: String,
    /// What the record says of its origin.
    pub(crate) source: String,
    /// Of the manifest: identity of the image, seed of everything random in it.
    pub(crate) manifest: Descriptor,
    /// As it is in the blob.
    pub(crate) config_json: Vec<u8>,
    pub(crate) config: ImageConfig,
    /// Base first, as in the manifest.
    pub(crate) layers: Vec<Descriptor>,
}

/// Opens a layer's blob, compressed, for reading.
pub(crate) type OpenBlob<'a> = dyn Fn(&Descriptor) -> io::Result<Box<dyn Read + Send>> + 'a;

/// What does not come from the image.
#[derive(Clone, Copy)]
pub(crate) struct How<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) size: Size,
    pub(crate) filesystem: Filesystem,
}

/// Writes `rootfs.img` and `config.json` into `staged` and syncs them.
///
/// # Errors
/// [`Error::Build`] for what the layers hold, [`Error::DiffId`], [`Error::Compression`], or what
/// `open` wrapped into its `io::Error`.
pub(crate) fn build(
    plan: &Plan,
    staged: &Staged,
    open: &OpenBlob<'_>,
    how: How<'_>,
    progress: &dyn Progress,
) -> Result<NewImage, Error> {
    let total = plan.layers.iter().map(|layer| layer.size).sum();
    let step = progress.step("building file system", Some(total));
    let path = staged.path().join("rootfs.img");
    let image = private_file(&path)?;
    let layers = plan.layers.iter().zip(&plan.config.diff_ids).rev();
    let options = options(&plan.manifest.digest, how);
    let unpacked = Arc::new(Unpacked::default());
    let (built, written) = scope(|threads| {
        let layers = layers.map(|(blob, diff_id)| {
            let bounds = (&unpacked, how.limits);
            layer(threads, blob, diff_id, open, &*step, bounds)
        });
        let (tell, told) = sync_channel(1);
        let writer = threads.spawn(|| write_out(&image, told));
        let next = Cell::new(WRITE_OUT);
        let progress = |so_far: lib_fs::Progress| {
            if so_far.content_bytes >= next.get() {
                next.set(so_far.content_bytes + WRITE_OUT);
                // It is still at work on what came before.
                let _ = tell.try_send(());
            }
        };
        let built = match direct(&path) {
            Some(direct) => lib_fs::build_direct(layers, &image, direct, &options, &|_| {}),
            None => lib_fs::build(layers, &image, &options, &progress),
        };
        drop(tell);
        (built, writer.join())
    });
    let summary = built.map_err(|error| unwrap(error, &plan.name))?;
    match written {
        Ok(written) => written.map_err(Error::io("sync", &path))?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    point("rootfs.sync")
        .and_then(|()| image.sync_all())
        .map_err(Error::io("sync", &path))?;
    write(&staged.path().join("config.json"), &plan.config_json)?;
    if let Some(note) = how.size.note() {
        write(&staged.path().join(size::FILE), note.as_bytes())?;
    }
    step.done(&format!(
        "{} entries, {}",
        summary.entries,
        ByteSize(summary.used_bytes)
    ));
    Ok(NewImage {
        digest: plan.manifest.digest.clone(),
        source: plan.source.clone(),
        architecture: plan.config.platform.architecture.clone(),
        filesystem: how.filesystem.as_str().to_owned(),
        size: ByteSize(summary.image_bytes),
        used: ByteSize(summary.used_bytes),
        config: plan.config.run.clone(),
        kernel: None,
    })
}

/// The image for writes past the page cache, if the file system knows such (tmpfs may not).
fn direct(path: &Path) -> Option<File> {
    let mut options = File::options();
    options
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW);
    options.open(path).ok()
}

/// Each time it is told, until nobody is left to tell: the sync at the end finds little to do. An
/// error must not get lost, the kernel says it once (fsync(2)).
fn write_out(image: &File, told: Receiver<()>) -> io::Result<()> {
    while told.recv().is_ok() {
        image.sync_data()?;
    }
    Ok(())
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = private_file(path)?;
    io::Write::write_all(&mut file, bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", path))
}

fn layer<'a>(
    threads: &'a Scope<'a, '_>,
    blob: &'a Descriptor,
    diff_id: &'a Digest,
    open: &'a OpenBlob<'a>,
    step: &'a dyn Step,
    (unpacked, limits): (&Arc<Unpacked>, &'a Limits),
) -> Layer<'a> {
    let mut unpacked = Some(unpacked.clone());
    Layer {
        name: blob.digest.short().to_owned(),
        open: Box::new(move || {
            let raw = CountingReader {
                inner: open(blob)?,
                step,
            };
            let what = format!("layer {}", blob.digest.short());
            // What is read a second time has been counted the first time.
            let counted = unpacked.take().unwrap_or_default();
            let tar = ahead(threads, unpack(raw, &what, counted, limits)?)?;
            let (layer, expected) = (blob.digest.clone(), diff_id.clone());
            Ok(Box::new(DiffIdReader::new(tar, layer, expected)))
        }),
        again: true,
    }
}

/// Errors of ours that passed through the file system writer come out as what they were.
fn unwrap(error: lib_fs::Error, image: &str) -> Error {
    let image = image.to_owned();
    match error {
        lib_fs::Error::Read { layer, source } => match source.downcast::<Error>() {
            Ok(ours) => ours,
            Err(source) => Error::Build {
                image,
                source: lib_fs::Error::Read { layer, source },
            },
        },
        source => Error::Build { image, source },
    }
}

/// Everything that must not be random comes from the manifest's digest.
pub(crate) fn options(digest: &Digest, how: How<'_>) -> lib_fs::Options {
    let mut hasher = Sha256::new();
    hasher.update(b"banger ext4\0");
    hasher.update(digest.as_str());
    let hash: [u8; 32] = hasher.finalize().into();
    let mut uuid = [0; 16];
    let mut hash_seed = [0; 16];
    uuid.copy_from_slice(&hash[..16]);
    hash_seed.copy_from_slice(&hash[16..]);
    // RFC 9562 §5.8: version 8, for whatever an implementation derives.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    lib_fs::Options {
        format: match how.filesystem {
            Filesystem::Ext4 => lib_fs::Format::Ext4,
            Filesystem::Erofs => lib_fs::Format::Erofs(lib_fs::Compression::Lz4),
        },
        size: how.size.choice(),
        uuid,
        hash_seed,
        limits: how.limits.filesystem.clone(),
        ..lib_fs::Options::default()
    }
}
