//! Docker archives, as `docker save` and Nix write them: `manifest.json` names a configuration
//! and layers. They become an OCI image whose layers are what is in the archive.

use lib_model::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::archive::{Spool, Spooled};
use super::{Found, Import, usable_name};
use crate::Error;
use crate::build::Plan;
use crate::config::ImageConfig;
use crate::layer::Compression;
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Image {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// Chooses an image of a docker archive and puts its blobs into the store.
///
/// # Errors
/// [`Error::SeveralImages`], [`Error::NotSelected`], [`Error::MissingMember`],
/// [`Error::Malformed`].
pub(super) fn import(
    import: &mut Import<'_>,
    spool: &mut Spool,
    what: &str,
) -> Result<Found, Error> {
    let limits = &import.request.limits;
    let title = format!("manifest.json of {what}");
    let images: Vec<Image> = serde_json::from_slice(&spool.document("manifest.json", limits)?)
        .map_err(|error| Error::malformed(&title, error))?;
    let image = choose(import, &images, what)?;
    limits.layers(what, image.layers.len())?;

    let config_json = spool.document(&image.config, limits)?;
    let config_title = format!("{} in {what}", image.config);
    let config = ImageConfig::parse(&config_json, &config_title, image.layers.len())?;
    let platform = &import.request.platform;
    if !platform.accepts(&config.platform) {
        return Err(Error::NoPlatform {
            what: what.to_owned(),
            wanted: platform.to_string(),
            available: vec![config.platform.to_string()],
        });
    }
    let mut files = Vec::new();
    let mut layers = Vec::new();
    for name in &image.layers {
        let file = spool.file(name)?;
        layers.push(descriptor(file, name, what)?);
        files.push(file);
    }
    let file = spool.file(&image.config)?;
    let config_blob = Descriptor::new(OCI_CONFIG, file.digest.clone(), file.size);
    files.push(file);
    import.pin(files.iter().map(|file| &file.digest))?;
    for (blob, file) in layers.iter().chain([&config_blob]).zip(files) {
        if !import.blobs.has(&import.pins, blob) {
            Spool::keep(file, &import.pins, import.blobs)?;
        }
    }
    let names = image
        .tags()
        .iter()
        .filter_map(|tag| usable_name(tag))
        .collect();
    let source = import.source("docker archive", what);
    let plan = plan(
        import,
        config_blob,
        layers,
        config_json,
        config,
        what,
        source,
    )?;
    Ok(Found { plan, names })
}

/// Writes the manifest of an image that came without one.
pub(super) fn plan(
    import: &mut Import<'_>,
    config_blob: Descriptor,
    layers: Vec<Descriptor>,
    config_json: Vec<u8>,
    config: ImageConfig,
    what: &str,
    source: String,
) -> Result<Plan, Error> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config: config_blob,
        layers,
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|error| Error::malformed("the new manifest", error))?;
    let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
    import.pin([&digest])?;
    import.blobs.store(&import.pins, &bytes)?;
    let mut descriptor = Descriptor::new(OCI_MANIFEST, digest, bytes.len() as u64);
    descriptor.platform = Some(config.platform.clone());
    Ok(Plan {
        name: what.to_owned(),
        source,
        manifest: descriptor,
        config_json,
        config,
        layers: manifest.layers,
    })
}

fn choose<'a>(import: &Import<'_>, images: &'a [Image], what: &str) -> Result<&'a Image, Error> {
    let what = what.to_owned();
    let names = || {
        let name = |image: &Image| image.tags().first().unwrap_or(&image.config).clone();
        images.iter().map(name).collect()
    };
    match (&import.request.select, images) {
        (_, []) => Err(Error::NotAnImage {
            what,
            reason: "it lists no images".to_owned(),
        }),
        (None, [only]) => Ok(only),
        (None, _) => Err(Error::SeveralImages {
            what,
            names: names(),
        }),
        (Some(selected), _) => {
            let familiar = usable_name(selected);
            let called = |image: &&Image| {
                image.config == *selected
                    || image.tags().iter().any(|tag| {
                        tag == selected || (familiar.is_some() && usable_name(tag) == familiar)
                    })
            };
            images
                .iter()
                .find(called)
                .ok_or_else(|| Error::NotSelected {
                    what,
                    selected: selected.clone(),
                    names: names(),
                })
        }
    }
}

fn descriptor(file: &Spooled, name: &str, what: &str) -> Result<Descriptor, Error> {
    let media_type = layer_type(file.compression, || format!("`{name}` in {what}"))?;
    Ok(Descriptor::new(&media_type, file.digest.clone(), file.size))
}

/// The media type of a layer with this compression.
///
/// # Errors
/// [`Error::Compression`].
pub(super) fn layer_type(
    compression: Compression,
    what: impl FnOnce() -> String,
) -> Result<String, Error> {
    match compression {
        Compression::None => Ok(OCI_LAYER.to_owned()),
        Compression::Gzip => Ok(format!("{OCI_LAYER}+gzip")),
        Compression::Zstd => Ok(format!("{OCI_LAYER}+zstd")),
        Compression::Unsupported(format) => Err(Error::Compression {
            what: what(),
            format,
        }),
    }
}
