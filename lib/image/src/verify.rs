//! Whether an image is what its digest says.
//!
//! The blobs are read again and compared with their digests, and the file system is checked by its
//! own tool where that is installed; no digest of the file itself is kept.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lib_model::{ImageRecord, Progress};
use lib_store::{Locks, Store};

use crate::blobs::Blobs;
use crate::local::manifest_of;
use crate::pins::Pins;
use crate::{Error, Limits};

/// What was found; empty lists are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The image.
    pub image: ImageRecord,
    /// What is wrong, in words.
    pub faults: Vec<String>,
    /// What was not looked at, and why.
    pub skipped: Vec<String>,
}

/// Checks an image. It stays as it is.
///
/// # Errors
/// When there is no such image, or files cannot be read; what is wrong with them is no error here.
pub fn verify(
    store: &Store,
    locks: &mut Locks,
    selector: &str,
    progress: &dyn Progress,
) -> Result<Verified, Error> {
    let image = store.image(selector)?;
    let mut verified = Verified {
        image: image.clone(),
        faults: Vec::new(),
        skipped: Vec::new(),
    };
    blobs(store, locks, &mut verified, progress)?;
    let disk = store.context().image_disk(&image.id);
    match std::fs::symlink_metadata(&disk) {
        Ok(file) if file.len() == image.size.0 => file_system(&disk, &mut verified, progress)?,
        Ok(file) => verified.faults.push(format!(
            "{} has {} bytes, not {}",
            disk.display(),
            file.len(),
            image.size.0
        )),
        Err(error) => verified.faults.push(format!("{}: {error}", disk.display())),
    }
    Ok(verified)
}

fn blobs(
    store: &Store,
    locks: &mut Locks,
    verified: &mut Verified,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let blobs = Blobs::open(store.context())?;
    let digest = verified.image.digest.clone();
    // Kept while it is read, should the image be deleted meanwhile.
    let mut pins = Pins::new(store.context())?;
    pins.pin(locks, [&digest])?;
    if !blobs.path(&digest).exists() {
        verified
            .skipped
            .push("blobs: its manifest is not here".to_owned());
        return Ok(());
    }
    let (manifest, _) = match manifest_of(&blobs, &digest, &Limits::default()) {
        Ok(found) => found,
        Err(error) => {
            verified.faults.push(error.to_string());
            return Ok(());
        }
    };
    let all = || manifest.layers.iter().chain([&manifest.config]);
    pins.pin(locks, all().map(|blob| &blob.digest))?;
    let total = all().map(|blob| blob.size).sum();
    let step = progress.step("reading blobs", Some(total));
    for blob in all() {
        if !blobs.path(&blob.digest).exists() {
            verified
                .faults
                .push(format!("blob {} is missing", blob.digest));
        } else if !blobs.is_whole(blob)? {
            verified
                .faults
                .push(format!("blob {} is damaged", blob.digest));
        }
        step.advance(blob.size);
    }
    step.done("");
    Ok(())
}

/// The checker of a file system, which changes nothing.
fn file_system(disk: &Path, verified: &mut Verified, progress: &dyn Progress) -> Result<(), Error> {
    let (program, arguments): (_, &[&str]) = match verified.image.filesystem.as_str() {
        "ext4" => ("e2fsck", &["-f", "-n"]),
        "erofs" => ("fsck.erofs", &[]),
        other => {
            verified
                .skipped
                .push(format!("file system: {other} has no checker"));
            return Ok(());
        }
    };
    let Some(path) = find(program) else {
        verified
            .skipped
            .push(format!("file system: {program} is not installed"));
        return Ok(());
    };
    let step = progress.step("checking the file system", None);
    let output = Command::new(path)
        .args(arguments)
        .arg(disk)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run", program))?;
    step.done("");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().rfind(|line| !line.trim().is_empty());
        verified.faults.push(format!(
            "{program} {} finds the file system damaged: {}",
            arguments.join(" "),
            line.unwrap_or("it says no more").trim()
        ));
    }
    Ok(())
}

/// On `PATH`, and in the places where such tools are: users often lack those.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
