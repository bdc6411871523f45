//! From a registry to an image in the store.
//!
//! Download and build overlap: layers arrive on one thread, and the writer on the caller's reads
//! each while it arrives. No ordered lock is held meanwhile. Equal pulls wait for each other
//! by claims ([`crate::claim`]), and what a pull counts on is pinned ([`crate::pins`]).

use std::path::PathBuf;

use lib_model::{Digest, Filesystem, ImageRecord, Progress, Reference};
use lib_store::{Context, Locks, NewImage, Staged, Store};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::arrivals::Arrivals;
use crate::blobs::Blobs;
use crate::build::{How, Plan, build};
use crate::claim::{self, Claim, Thing, waiting_for};
use crate::config::ImageConfig;
use crate::fetch::label;
use crate::local::Local;
use crate::manifest::{Descriptor, Document, Manifest};
use crate::pins::Pins;
use crate::publish::{Wanted, name_existing, publish};
use crate::registry::Registry;
use crate::{Error, Limits, LockFile, Platform, RegistryOptions, Size, partial, space};

/// What to pull, and how.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image; its familiar form becomes the image's name.
    pub reference: Reference,
    /// Which image of an index.
    pub platform: Platform,
    /// How the registry is reached.
    pub registry: RegistryOptions,
    /// Bounds.
    pub limits: Limits,
    /// Size of the file system.
    pub size: Size,
    /// What the image is made as.
    pub filesystem: Filesystem,
    /// No network: only what is here.
    pub offline: bool,
    /// Compares or remembers what the reference means.
    pub lock_file: Option<LockFile>,
    /// Free space is looked at before the download.
    pub check_space: bool,
}

impl PullRequest {
    /// With the defaults for everything else.
    pub fn new(reference: Reference) -> Self {
        PullRequest {
            reference,
            platform: Platform::default(),
            registry: RegistryOptions::default(),
            limits: Limits::default(),
            size: Size::default(),
            filesystem: Filesystem::default(),
            offline: false,
            lock_file: None,
            check_space: true,
        }
    }
}

/// Pulls an image and names it. Of an image that is here already only the manifest is fetched.
///
/// # Errors
/// See [`Error`]. Nothing is published then; blobs that arrived, whole or not, are kept.
pub fn pull(
    store: &mut Store,
    locks: &mut Locks,
    request: &PullRequest,
    progress: &dyn Progress,
) -> Result<ImageRecord, Error> {
    request.size.check(request.filesystem)?;
    let reference = &request.reference;
    let name = reference.familiar();
    if let Some(lock_file) = &request.lock_file {
        lock_file.locked(reference)?;
    }
    if let Some(image) = at_once(store, request, &name)? {
        return Ok(image);
    }
    let (runtime, mut pull) = begin(store.context(), request, progress)?;
    let found = pull.look_up(&runtime)?;
    let wanted = Wanted::of(&found.descriptor, request.size, request.filesystem);
    if let Some(image) = name_existing(store, locks, wanted, Some(&name))? {
        return Ok(image);
    }
    let _claim = pull.claim_image(&found.descriptor.digest)?;
    // Whoever had the claim before may have made it.
    if let Some(image) = name_existing(store, locks, wanted, Some(&name))? {
        return Ok(image);
    }
    pull.pin(locks, &found)?;
    let (plan, missing) = runtime.block_on(pull.plan(found))?;
    pull.check(&plan, &missing)?;
    let (staged, new) = match pull.fetch_and_build(&runtime, &plan, &missing) {
        Ok(built) => built,
        Err(error) => {
            // A blob of an earlier pull may have rotted; without it the download is complete again.
            let missing = pull.damaged(&plan, &missing)?;
            if missing.is_empty() {
                return Err(error);
            }
            pull.fetch_and_build(&runtime, &plan, &missing)?
        }
    };
    let wanted = Wanted::of(&plan.manifest, request.size, request.filesystem);
    publish(store, locks, staged, &new, wanted, Some(&name))
}

/// Brings the blobs of an image into a store and makes no image of them; returns its manifest. They are the caller's as
/// long as the pins are.
///
/// # Errors
/// As [`pull`].
pub(crate) fn blobs_only(
    store: &Store,
    locks: &mut Locks,
    request: &PullRequest,
    progress: &dyn Progress,
) -> Result<(Digest, Pins), Error> {
    let (runtime, mut pull) = begin(store.context(), request, progress)?;
    let found = pull.look_up(&runtime)?;
    pull.pin(locks, &found)?;
    let (plan, missing) = runtime.block_on(pull.plan(found))?;
    pull.check(&plan, &missing)?;
    // Nobody sends: it runs to its end.
    let (_never, cancelled) = oneshot::channel();
    runtime.block_on(pull.fetch(&missing, &Arrivals::new(&missing), cancelled))?;
    Ok((plan.manifest.digest, pull.pins))
}

fn begin<'a>(
    context: &Context,
    request: &'a PullRequest,
    progress: &'a dyn Progress,
) -> Result<(Runtime, Pull<'a>), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Client(error.into()))?;
    let pull = Pull {
        context: context.clone(),
        downloads: claim::directory(context)?,
        pins: Pins::new(context)?,
        blobs: Blobs::open(context)?,
        registry: match request.offline {
            true => None,
            false => Some(Registry::new(&request.reference, &request.registry)?),
        },
        request,
        progress,
    };
    Ok((runtime, pull))
}

/// The image that is known to be the right one without a look at the registry: of a reference with
/// a digest, which never changes, or the one of that name when there is no network.
fn at_once(store: &Store, request: &PullRequest, name: &str) -> Result<Option<ImageRecord>, Error> {
    let pinned = request.reference.digest();
    if !(request.offline || pinned.is_some()) || !store.image_names()?.iter().any(|n| n == name) {
        return Ok(None);
    }
    let image = store.image(name)?;
    let usable = image.architecture == request.platform.architecture
        && image.filesystem == request.filesystem.as_str()
        && request.size.fits(&store.context().image(&image.id))
        && store.context().image_disk(&image.id).is_file();
    if !usable {
        return Ok(None);
    }
    if let (Some(lock_file), Some(digest)) = (&request.lock_file, pinned) {
        lock_file.found(&request.reference, digest)?;
    }
    Ok(Some(image))
}

/// A manifest for the platform, and the bytes that it was read from.
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
}

impl Found {
    /// Checks the sizes, and names the manifest by its digest.
    pub(crate) fn new(
        manifest: Manifest,
        bytes: Vec<u8>,
        what: &str,
        request: &PullRequest,
    ) -> Result<Self, Error> {
        let total = manifest
            .layers
            .iter()
            .map(|layer| layer.size)
            .fold(0, u64::saturating_add);
        request.limits.layer_bytes(what, total)?;
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        let mut descriptor = Descriptor::new(manifest.kind(), digest, bytes.len() as u64);
        descriptor.platform = Some(request.platform.clone());
        Ok(Found {
            manifest,
            descriptor,
            bytes,
        })
    }
}

/// One pull under way.
pub(crate) struct Pull<'a> {
    context: Context,
    pub(crate) downloads: PathBuf,
    pub(crate) pins: Pins,
    pub(crate) blobs: Blobs,
    /// None without the network.
    pub(crate) registry: Option<Registry>,
    pub(crate) request: &'a PullRequest,
    pub(crate) progress: &'a dyn Progress,
}

impl Pull<'_> {
    /// What the reference means, by the registry or, without the network, by what is here.
    fn look_up(&self, runtime: &Runtime) -> Result<Found, Error> {
        match &self.registry {
            Some(registry) => runtime.block_on(self.manifest(registry)),
            None => Local::new(&self.blobs).manifest(self.request),
        }
    }

    /// The manifest for the platform, through an index where there is one.
    async fn manifest(&self, registry: &Registry) -> Result<Found, Error> {
        let request = self.request;
        let limits = &request.limits;
        let familiar = request.reference.familiar();
        let what = format!("the manifest of {familiar}");
        let bytes = registry.document(None, limits).await?;
        if let Some(lock_file) = &request.lock_file {
            let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
            lock_file.found(&request.reference, &digest)?;
        }
        let (bytes, manifest) = match Document::parse(&bytes, &what, limits)? {
            Document::Manifest(manifest) => (bytes, manifest),
            Document::Index(index) => {
                let entry = index.choose(&request.platform, &familiar)?;
                let bytes = registry.document(Some(&entry.digest), limits).await?;
                match Document::parse(&bytes, &what, limits)? {
                    Document::Manifest(manifest) => (bytes, manifest),
                    Document::Index(_) => {
                        return Err(Error::malformed(&what, "an index within an index"));
                    }
                }
            }
        };
        Found::new(manifest, bytes, &what, request)
    }

    /// Waits for those who make the same image.
    fn claim_image(&self, digest: &Digest) -> Result<Claim, Error> {
        let mut step = None;
        let claim = Claim::take(&self.downloads, Thing::Image, digest, &mut |holder| {
            step = Some(
                self.progress
                    .step(&waiting_for("the same pull", holder), None),
            );
        })?;
        if let Some(step) = step {
            step.done("");
        }
        Ok(claim)
    }

    /// Pins everything that the image is made of, and stores its manifest.
    fn pin(&mut self, locks: &mut Locks, found: &Found) -> Result<(), Error> {
        let manifest = &found.manifest;
        let layers = manifest.layers.iter().map(|layer| &layer.digest);
        let others = [&found.descriptor.digest, &manifest.config.digest];
        self.pins.pin(locks, layers.chain(others))?;
        if !self.blobs.has(&self.pins, &found.descriptor) {
            self.blobs.store(&self.pins, &found.bytes)?;
        }
        Ok(())
    }

    /// Fetches the configuration; tells which layers are missing.
    async fn plan(&self, found: Found) -> Result<(Plan, Vec<Descriptor>), Error> {
        let manifest = found.manifest;
        let name = self.request.reference.familiar();
        let what = format!("the configuration of {name}");
        if !self.blobs.has(&self.pins, &manifest.config) {
            let step = lib_model::Silent.step("", None);
            self.download(&manifest.config, &what, &*step, None).await?;
        }
        let config_json = self
            .blobs
            .read(&manifest.config.digest, &what, &self.request.limits)?;
        let config = ImageConfig::parse(&config_json, &what, manifest.layers.len())?;
        if !self.request.platform.accepts(&config.platform) {
            return Err(Error::NoPlatform {
                what: name,
                wanted: self.request.platform.to_string(),
                available: vec![config.platform.to_string()],
            });
        }
        let mut missing: Vec<Descriptor> = Vec::new();
        // The writer wants the topmost first.
        for layer in manifest.layers.iter().rev() {
            if self.blobs.has(&self.pins, layer) {
                self.progress
                    .step(&label(layer), Some(layer.size))
                    .done("already here");
            } else if missing.iter().all(|there| there.digest != layer.digest) {
                missing.push(layer.clone());
            }
        }
        let plan = Plan {
            name,
            source: self.request.reference.to_string(),
            manifest: found.descriptor,
            config_json,
            config,
            layers: manifest.layers,
        };
        Ok((plan, missing))
    }

    /// Whether what is missing may be fetched, and has room.
    fn check(&self, plan: &Plan, missing: &[Descriptor]) -> Result<(), Error> {
        if self.request.offline && !missing.is_empty() {
            return Err(Error::Offline {
                what: plan.name.clone(),
                missing: missing.iter().map(label).collect(),
            });
        }
        if !self.request.check_space {
            return Ok(());
        }
        let to_come = missing.iter().map(|layer| {
            let here = partial::path(&self.downloads, &layer.digest)
                .metadata()
                .map_or(0, |file| file.len());
            layer.size.saturating_sub(here)
        });
        let to_come = to_come.fold(0, u64::saturating_add);
        let needed = space::estimate(&plan.layers, to_come);
        space::check(self.context.data(), &plan.name, needed)
    }

    fn fetch_and_build(
        &self,
        runtime: &Runtime,
        plan: &Plan,
        missing: &[Descriptor],
    ) -> Result<(Staged, NewImage), Error> {
        let staged = Staged::new(&self.context)?;
        let arrivals = Arrivals::new(missing);
        let how = How {
            limits: &self.request.limits,
            size: self.request.size,
            filesystem: self.request.filesystem,
        };
        let (cancel, cancelled) = oneshot::channel::<()>();
        let (built, fetched) = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| {
                let fetched = runtime.block_on(self.fetch(missing, &arrivals, cancelled));
                arrivals.close();
                fetched
            });
            let open = |layer: &Descriptor| arrivals.open(&layer.digest, &self.blobs);
            let mut built = build(plan, &staged, &open, how, self.progress);
            // A layer that is not what it should be is the cause, not what the builder made of it.
            while built.is_err() && arrivals.settle() {
                built = build(plan, &staged, &open, how, self.progress);
            }
            if built.is_err() {
                // The receiver is gone when everything has arrived.
                let _ = cancel.send(());
            }
            (built, fetching.join())
        });
        // A download that failed also fails the build; it is the cause.
        match fetched {
            Ok(fetched) => fetched?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok((staged, built?))
    }

    /// Removes blobs that were here before and are damaged, and returns them and those that are
    /// gone.
    fn damaged(&self, plan: &Plan, fresh: &[Descriptor]) -> Result<Vec<Descriptor>, Error> {
        let mut damaged: Vec<Descriptor> = Vec::new();
        for layer in plan.layers.iter().rev() {
            let known = fresh
                .iter()
                .chain(&damaged)
                .any(|there| there.digest == layer.digest);
            if !known && self.blobs.remove_if_damaged(&self.context, layer)? {
                damaged.push(layer.clone());
            }
        }
        Ok(damaged)
    }
}
