//! OCI layouts (image-spec, image-layout.md), as a directory or out of an archive.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lib_model::Digest;
use sha2::{Digest as _, Sha256};

use super::{Found, Import, usable_name};
use crate::blob_writer::BlobWriter;
use crate::blobs::{Blobs, check_digest};
use crate::build::Plan;
use crate::config::ImageConfig;
use crate::manifest::{CONTAINERD_NAME, Descriptor, Document, Index, Manifest, REF_NAME};
use crate::pins::Pins;
use crate::{Error, Limits};

/// Something with an `index.json` and blobs.
pub(super) trait Layout {
    /// The bytes of `index.json`.
    fn index(&mut self, limits: &Limits) -> Result<Vec<u8>, Error>;

    /// A small blob, checked.
    fn read(&mut self, blob: &Descriptor, what: &str, limits: &Limits) -> Result<Vec<u8>, Error>;

    /// Puts a blob into the store's blobs, checked.
    fn provide(
        &mut self,
        blob: &Descriptor,
        what: &str,
        pins: &Pins,
        blobs: &Blobs,
    ) -> Result<(), Error>;
}

/// A layout on disk.
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    /// # Errors
    /// [`Error::NotAnImage`] without `oci-layout` and `index.json`.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        for file in ["oci-layout", "index.json"] {
            if !root.join(file).is_file() {
                return Err(Error::NotAnImage {
                    what: root.to_string_lossy().into_owned(),
                    reason: format!("a directory must be an OCI layout, this one lacks `{file}`"),
                });
            }
        }
        Ok(Directory {
            root: root.to_owned(),
        })
    }

    fn blob(&self, blob: &Descriptor) -> Result<(PathBuf, File), Error> {
        let member = format!("blobs/sha256/{}", blob.digest.hex());
        let path = self.root.join(&member);
        match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::MissingMember {
                what: self.root.to_string_lossy().into_owned(),
                member,
            }),
            Err(error) => Err(Error::io("open", path)(error)),
        }
    }
}

impl Layout for Directory {
    fn index(&mut self, limits: &Limits) -> Result<Vec<u8>, Error> {
        let path = self.root.join("index.json");
        let length = fs::metadata(&path).map_err(Error::io("open", &path))?.len();
        limits.document(&path.to_string_lossy(), length)?;
        fs::read(&path).map_err(Error::io("read", &path))
    }

    fn read(&mut self, blob: &Descriptor, what: &str, limits: &Limits) -> Result<Vec<u8>, Error> {
        let (path, file) = self.blob(blob)?;
        let mut bytes = Vec::new();
        file.take(limits.document_bytes + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", path))?;
        limits.document(what, bytes.len() as u64)?;
        check_digest(&bytes, &blob.digest, what)?;
        Ok(bytes)
    }

    fn provide(
        &mut self,
        blob: &Descriptor,
        what: &str,
        pins: &Pins,
        blobs: &Blobs,
    ) -> Result<(), Error> {
        let (path, mut file) = self.blob(blob)?;
        let mut writer = BlobWriter::new(pins.staged(), blob.digest.hex())?;
        let mut buffer = vec![0; 256 << 10];
        // One byte more than announced proves that it is too long.
        while writer.written() <= blob.size {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => writer.write(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", path)(error)),
            }
        }
        writer.commit_as(pins, blobs, blob, what)
    }
}

/// Chooses an image of a layout and puts its blobs into the store.
///
/// # Errors
/// [`Error::SeveralImages`], [`Error::NotSelected`], [`Error::NoPlatform`], and what blobs can
/// have wrong with them.
pub(super) fn import(
    import: &mut Import<'_>,
    layout: &mut dyn Layout,
    what: &str,
) -> Result<Found, Error> {
    let limits = &import.request.limits;
    let title = format!("index.json of {what}");
    let index = match Document::parse(&layout.index(limits)?, &title, limits)? {
        Document::Index(index) => index,
        Document::Manifest(_) => return Err(Error::malformed(&title, "it is a manifest")),
    };
    let entry = choose(import, &index, what)?;
    let names = names(&index, &entry);
    let (manifest, bytes) = manifest(import, layout, &entry, what)?;
    let total = manifest
        .layers
        .iter()
        .map(|layer| layer.size)
        .fold(0, u64::saturating_add);
    limits.layer_bytes(what, total)?;

    let config_title = format!("the configuration in {what}");
    let config_json = layout.read(&manifest.config, &config_title, limits)?;
    let config = ImageConfig::parse(&config_json, &config_title, manifest.layers.len())?;
    let platform = &import.request.platform;
    if !platform.accepts(&config.platform) {
        return Err(Error::NoPlatform {
            what: what.to_owned(),
            wanted: platform.to_string(),
            available: vec![config.platform.to_string()],
        });
    }
    let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
    let blobs = || manifest.layers.iter().chain([&manifest.config]);
    import.pin(blobs().map(|blob| &blob.digest).chain([&digest]))?;
    for blob in blobs() {
        if !import.blobs.has(&import.pins, blob) {
            let title = format!("blob {} in {what}", blob.digest);
            layout.provide(blob, &title, &import.pins, import.blobs)?;
        }
    }
    import.blobs.store(&import.pins, &bytes)?;
    let mut descriptor = Descriptor::new(manifest.kind(), digest, bytes.len() as u64);
    descriptor.platform = Some(config.platform.clone());
    let plan = Plan {
        name: what.to_owned(),
        source: import.source("layout", what),
        manifest: descriptor,
        config_json,
        config,
        layers: manifest.layers,
    };
    Ok(Found { plan, names })
}

/// The entry of `index.json` that is meant.
fn choose(import: &Import<'_>, index: &Index, what: &str) -> Result<Descriptor, Error> {
    if let Some(selected) = &import.request.select {
        return match index
            .manifests
            .iter()
            .find(|entry| is_called(entry, selected))
        {
            Some(entry) => Ok(entry.clone()),
            None => Err(Error::NotSelected {
                what: what.to_owned(),
                selected: selected.clone(),
                names: listing(index),
            }),
        };
    }
    let mut images: Vec<&Descriptor> = Vec::new();
    for entry in &index.manifests {
        if images.iter().all(|there| there.digest != entry.digest) {
            images.push(entry);
        }
    }
    match &images[..] {
        [] => Err(Error::NotAnImage {
            what: what.to_owned(),
            reason: "its index.json lists no images".to_owned(),
        }),
        [only] => Ok((*only).clone()),
        // One image for several platforms, without an index between.
        _ if images
            .iter()
            .all(|entry| entry.platform.is_some() && title(entry).is_none()) =>
        {
            index.choose(&import.request.platform, what).cloned()
        }
        _ => Err(Error::SeveralImages {
            what: what.to_owned(),
            names: listing(index),
        }),
    }
}

fn is_called(entry: &Descriptor, selected: &str) -> bool {
    let familiar = usable_name(selected);
    let by_name = [CONTAINERD_NAME, REF_NAME]
        .into_iter()
        .filter_map(|key| entry.annotation(key))
        .any(|name| name == selected || (familiar.is_some() && usable_name(name) == familiar));
    by_name || entry.digest.as_str() == selected || entry.digest.hex() == selected
}

fn title(entry: &Descriptor) -> Option<&str> {
    entry
        .annotation(CONTAINERD_NAME)
        .or_else(|| entry.annotation(REF_NAME))
}

fn listing(index: &Index) -> Vec<String> {
    let name = |entry: &Descriptor| title(entry).unwrap_or(entry.digest.as_str()).to_owned();
    index.manifests.iter().map(name).collect()
}

/// All usable names of an image.
fn names(index: &Index, chosen: &Descriptor) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in index
        .manifests
        .iter()
        .filter(|entry| entry.digest == chosen.digest)
    {
        let name = title(entry).and_then(usable_name);
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

/// The manifest of an entry, through an index where there is one, and its bytes.
fn manifest(
    import: &Import<'_>,
    layout: &mut dyn Layout,
    entry: &Descriptor,
    what: &str,
) -> Result<(Manifest, Vec<u8>), Error> {
    let limits = &import.request.limits;
    let title = format!("manifest {} in {what}", entry.digest.short());
    let bytes = layout.read(entry, &title, limits)?;
    let index = match Document::parse(&bytes, &title, limits)? {
        Document::Manifest(manifest) => return Ok((manifest, bytes)),
        Document::Index(index) => index,
    };
    let entry = index.choose(&import.request.platform, what)?;
    let bytes = layout.read(entry, &title, limits)?;
    match Document::parse(&bytes, &title, limits)? {
        Document::Manifest(manifest) => Ok((manifest, bytes)),
        Document::Index(_) => Err(Error::malformed(&title, "an index within an index")),
    }
}
