//! Images as OCI layouts of their own (image-spec, image-layout.md), and as derivations that make such a layout.
//!
//! A layout is a function of the manifest: two files around the blobs, without a name or a time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use lib_model::{ByteSize, Digest, ImageRecord, LayoutRecord, Progress, Reference, SCHEMA};
use lib_nix::{Nar, base64};
use lib_store::{Context, Locks, Store};

use crate::blob_writer::HashWriter;
use crate::blobs::Blobs;
use crate::config::ImageConfig;
use crate::local::manifest_of;
use crate::manifest::{Descriptor, Index, OCI_INDEX};
use crate::pins::Pins;
use crate::{Error, Limits, PullRequest, pull};

const MARKER: &str = "oci-layout";
const MARKER_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = "index.json";
/// Of a pull on its way into a layout; within that, so that blobs are renamed into place.
const STAGING: &str = ".banger";

/// What a layout is made of.
pub(crate) struct Layout {
    index: Vec<u8>,
    manifest: Digest,
    blobs: BTreeMap<String, Descriptor>,
    platform: String,
}

impl Layout {
    /// The layout of an image whose manifest and configuration are here.
    fn of(blobs: &Blobs, manifest: &Digest, limits: &Limits) -> Result<Layout, Error> {
        let (parsed, mut descriptor) = manifest_of(blobs, manifest, limits)?;
        let what = format!("the configuration of manifest {}", manifest.short());
        let config = blobs.read(&parsed.config.digest, &what, limits)?;
        let config = ImageConfig::parse(&config, &what, parsed.layers.len())?;
        let mut all = BTreeMap::new();
        for blob in parsed
            .layers
            .into_iter()
            .chain([parsed.config, descriptor.clone()])
        {
            all.insert(blob.digest.hex().to_owned(), blob);
        }
        descriptor.platform = Some(config.platform.clone());
        let index = Index {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            manifests: vec![descriptor],
        };
        Ok(Layout {
            index: serde_json::to_vec(&index).map_err(|e| Error::malformed(INDEX, e))?,
            manifest: manifest.clone(),
            blobs: all,
            platform: config.platform.to_string(),
        })
    }

    fn bytes(&self) -> u64 {
        let blobs = self.blobs.values().map(|blob| blob.size);
        blobs.fold(0, u64::saturating_add)
    }

    /// Writes what is not a blob.
    fn frame(&self, directory: &Path) -> Result<(), Error> {
        for (name, content) in [(MARKER, MARKER_TEXT), (INDEX, &self.index[..])] {
            let path = directory.join(name);
            point("layout.write")
                .and_then(|()| fs::write(&path, content))
                .map_err(Error::io("write", &path))?;
        }
        Ok(())
    }

    fn record(&self, directory: &Path) -> LayoutRecord {
        LayoutRecord {
            schema: SCHEMA,
            path: directory.to_string_lossy().into_owned(),
            digest: self.manifest.clone(),
            size: ByteSize(self.bytes()),
            changed: true,
        }
    }
}

/// Writes an image's layout into a directory that is empty, or not there yet.
///
/// # Errors
/// [`Error::NotEmpty`]; [`Error::NoLayers`] for an image that was not made of a manifest, or whose layers are gone. What
/// was written is removed again then.
pub fn export_layout(
    store: &Store,
    locks: &mut Locks,
    selector: &str,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<LayoutRecord, Error> {
    let image = store.image(selector)?;
    let (blobs, _pins, layout) = held(store, locks, &image, selector)?;
    let made = Made::begin(directory)?;
    let target = directory.join("blobs/sha256");
    fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
    let step = progress.step("writing the layout", Some(layout.bytes()));
    for (hex, blob) in &layout.blobs {
        let path = target.join(hex);
        let mut to = File::create_new(&path).map_err(Error::io("create", &path))?;
        each_piece(&blobs, blob, &mut |piece| {
            step.advance(piece.len() as u64);
            to.write_all(piece)
        })?;
    }
    layout.frame(directory)?;
    step.done("");
    made.keep();
    Ok(layout.record(directory))
}

/// Pulls an image as a layout into a directory that is empty, or not there yet; nothing of a store is used.
///
/// # Errors
/// As [`pull`]; what was written is removed again then.
pub fn pull_layout(
    request: &PullRequest,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<LayoutRecord, Error> {
    let made = Made::begin(directory)?;
    let staging = directory.join(STAGING);
    let context = Context::from_environment(Some(&staging), |_| None)?;
    let mut locks = Locks::new(&context, |_, _| {});
    let store = Store::open(&context)?;
    let (manifest, pins) = pull::blobs_only(&store, &mut locks, request, progress)?;
    let layout = Layout::of(&Blobs::open(&context)?, &manifest, &request.limits)?;
    let target = directory.join("blobs");
    fs::rename(context.blobs().join("blobs"), &target).map_err(Error::io("create", &target))?;
    drop((pins, store, locks));
    fs::remove_dir_all(&staging).map_err(Error::io("remove", &staging))?;
    layout.frame(directory)?;
    readable(&target)?;
    made.keep();
    Ok(layout.record(directory))
}

/// A Nix expression: a function whose derivation pulls the image and has its layout as output, checked by its hash.
///
/// # Errors
/// [`Error::NotPulled`], [`Error::NoLayers`].
pub fn derivation(
    store: &Store,
    locks: &mut Locks,
    selector: &str,
    progress: &dyn Progress,
) -> Result<String, Error> {
    let image = store.image(selector)?;
    let Ok(reference) = Reference::try_from(image.source.as_str()) else {
        return Err(Error::NotPulled {
            image: selector.to_owned(),
            source_text: image.source,
        });
    };
    let (blobs, _pins, layout) = held(store, locks, &image, selector)?;
    let step = progress.step("hashing the layout", Some(layout.bytes()));
    let hash = nar_hash(&blobs, &layout, &|more| step.advance(more))?;
    step.done("");
    Ok(expression(&reference, &layout, &hash))
}

/// The blobs of an image, all of them pinned.
fn held(
    store: &Store,
    locks: &mut Locks,
    image: &ImageRecord,
    selector: &str,
) -> Result<(Blobs, Pins, Layout), Error> {
    let blobs = Blobs::open(store.context())?;
    let mut pins = Pins::new(store.context())?;
    pins.pin(locks, [&image.digest])?;
    let none = || Error::NoLayers {
        image: selector.to_owned(),
        source_text: image.source.clone(),
    };
    if !blobs.path(&image.digest).is_file() {
        return Err(none());
    }
    let limits = Limits::default();
    let (manifest, _) = manifest_of(&blobs, &image.digest, &limits)?;
    let needed = || manifest.layers.iter().chain([&manifest.config]);
    pins.pin(
        locks,
        needed().map(|blob| &blob.digest).chain([&image.digest]),
    )?;
    if !needed().all(|blob| blobs.has(&pins, blob)) {
        return Err(none());
    }
    let layout = Layout::of(&blobs, &image.digest, &limits)?;
    Ok((blobs, pins, layout))
}

/// Reads a blob piece by piece, and compares it with its digest.
fn each_piece(
    blobs: &Blobs,
    blob: &Descriptor,
    piece: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let path = blobs.path(&blob.digest);
    let mut from = File::open(&path).map_err(Error::io("open", &path))?;
    let mut hasher = HashWriter::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                piece(&buffer[..count]).map_err(Error::io("copy", &path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", &path)(error)),
        }
    }
    let actual = hasher.digest();
    if actual == blob.digest {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: format!("blob {}", path.display()),
        expected: blob.digest.clone(),
        actual,
    })
}

/// The hash that Nix gives the layout: files in the order of their names.
fn nar_hash(blobs: &Blobs, layout: &Layout, read: &dyn Fn(u64)) -> Result<Digest, Error> {
    let mut nar = Nar::default();
    nar.directory();
    nar.entry(b"blobs");
    nar.directory();
    nar.entry(b"sha256");
    nar.directory();
    for (hex, blob) in &layout.blobs {
        nar.entry(hex.as_bytes());
        nar.file(false, blob.size);
        each_piece(blobs, blob, &mut |piece| {
            nar.content(piece);
            read(piece.len() as u64);
            Ok(())
        })?;
        nar.end_file();
        nar.end_entry();
    }
    nar.end_directory();
    nar.end_entry();
    nar.end_directory();
    nar.end_entry();
    for (name, content) in [(INDEX, &layout.index[..]), (MARKER, MARKER_TEXT)] {
        nar.entry(name.as_bytes());
        nar.file(false, content.len() as u64);
        nar.content(content);
        nar.end_file();
        nar.end_entry();
    }
    nar.end_directory();
    Ok(nar.finish().0)
}

fn expression(reference: &Reference, layout: &Layout, hash: &Digest) -> String {
    let familiar = reference.familiar();
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let pinned = format!("{repository}@{}", layout.manifest);
    let mut name: String = familiar
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "+-._?=".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    name.truncate(160);
    let (platform, hash) = (&layout.platform, base64(hash));
    format!(
        r#"# The image {familiar} as an OCI layout, by its digest. With nixpkgs:
#   pkgs.callPackage ./this-file.nix {{ banger-image = pkgs.banger; }}
{{
  banger-image,
  cacert ? null,
  system ? builtins.currentSystem,
}}:
derivation (
  {{
    name = {};
    inherit system;
    builder = "${{banger-image}}/bin/banger-image";
    args = [
      "pull"
      "--quiet"
      "--platform"
      {}
      "--oci-layout"
      (placeholder "out")
      {}
    ];
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputHash = "sha256-{hash}";
    impureEnvVars = [
      "http_proxy"
      "https_proxy"
      "all_proxy"
      "no_proxy"
    ];
  }}
  // (if cacert == null then {{ }} else {{ SSL_CERT_FILE = "${{cacert}}/etc/ssl/certs/ca-bundle.crt"; }})
)
"#,
        quoted(&format!("{name}-oci")),
        quoted(platform),
        quoted(&pinned),
    )
}

/// A string of the Nix language.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace("${", "\\${");
    format!("\"{escaped}\"")
}

/// A layout is for others, too: the blobs of a store are not.
fn readable(path: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(path).map_err(Error::io("read", path))?;
    let mode = if metadata.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::io("open up", path))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
            readable(&entry.map_err(Error::io("read", path))?.path())?;
        }
    }
    Ok(())
}

/// A directory that is filled: emptied again, or removed if it was made, unless it is kept.
struct Made {
    directory: PathBuf,
    new: bool,
    keep: bool,
}

impl Made {
    fn begin(directory: &Path) -> Result<Made, Error> {
        let new = match fs::create_dir(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(Error::io("create", directory)(error)),
        };
        let mut entries = fs::read_dir(directory).map_err(Error::io("read", directory))?;
        if entries.next().is_some() {
            return Err(Error::NotEmpty(directory.to_owned()));
        }
        Ok(Made {
            directory: directory.to_owned(),
            new,
            keep: false,
        })
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The failure that led here is what is told.
        if self.new {
            let _ = fs::remove_dir_all(&self.directory);
            return;
        }
        for name in ["blobs", STAGING] {
            let _ = fs::remove_dir_all(self.directory.join(name));
        }
        for name in [INDEX, MARKER] {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_nix_are_quoted() {
        for (text, expected) in [
            ("a", r#""a""#),
            (r#"a"b\c"#, r#""a\"b\\c""#),
            ("${x}", r#""\${x}""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn a_directory_that_failed_to_be_filled_is_as_before() {
        let place = tempfile::tempdir().unwrap();
        let new = place.path().join("new");
        let made = Made::begin(&new).unwrap();
        fs::write(new.join(INDEX), "").unwrap();
        drop(made);
        assert!(!new.exists());
        let made = Made::begin(place.path()).unwrap();
        fs::create_dir(place.path().join("blobs")).unwrap();
        drop(made);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        fs::write(place.path().join("mine"), "").unwrap();
        assert!(matches!(Made::begin(place.path()), Err(Error::NotEmpty(_))));
        assert!(place.path().join("mine").exists());
    }
}
