//! From a registry to an image in the store.
//!
//! Download and build overlap: layers arrive on one thread, and the writer on the caller's takes
//! each as soon as it is whole. The lock that lets equal pulls wait for each other is the only
//! one held meanwhile; it is this module's own, and nothing that holds another lock takes it.

use std::pin::pin;
use std::sync::mpsc;

use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use lib_model::{Digest, ImageRecord, Progress, Reference, Step};
use lib_store::{Context, Holder, LeafGuard, Locks, NewImage, Staged, Store};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::arrivals::Arrivals;
use crate::blobs::{BlobWriter, Blobs};
use crate::build::{Plan, build};
use crate::config::ImageConfig;
use crate::manifest::{Descriptor, Document, Manifest, OCI_MANIFEST};
use crate::publish::{name_existing, publish};
use crate::registry::Registry;
use crate::{Error, Limits, Platform, RegistryOptions};

/// Layers downloaded at once.
const PARALLEL: usize = 3;

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
}

impl PullRequest {
    /// With the defaults for everything else.
    pub fn new(reference: Reference) -> Self {
        PullRequest {
            reference,
            platform: Platform::default(),
            registry: RegistryOptions::default(),
            limits: Limits::default(),
        }
    }
}

/// Pulls an image and names it. Of an image that is here already only the manifest is fetched.
///
/// # Errors
/// See [`Error`]. Nothing is published then; blobs that arrived whole are kept.
pub fn pull(
    store: &mut Store,
    locks: &mut Locks,
    request: &PullRequest,
    progress: &dyn Progress,
) -> Result<ImageRecord, Error> {
    let name = request.reference.familiar();
    if let Some(image) = pinned(store, request, &name)? {
        return Ok(image);
    }
    let mut turns = Turns::new(store.context());
    let _turn = turns.take(request, progress)?;
    let blobs = Blobs::open(store.context())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Client(error.into()))?;
    let registry = Registry::new(&request.reference, &request.registry)?;
    let pull = Pull {
        context: store.context().clone(),
        blobs,
        registry,
        request,
        progress,
    };
    let (manifest, descriptor) = runtime.block_on(pull.manifest())?;
    if let Some(image) = name_existing(store, locks, &descriptor, Some(&name))? {
        return Ok(image);
    }
    let (plan, missing) = runtime.block_on(pull.plan(manifest, descriptor))?;
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
    publish(store, locks, staged, &new, &plan.manifest, Some(&name))
}

/// The image of a reference with a digest, when it was pulled before: that never changes.
fn pinned(store: &Store, request: &PullRequest, name: &str) -> Result<Option<ImageRecord>, Error> {
    if request.reference.digest().is_none() || !store.image_names()?.iter().any(|n| n == name) {
        return Ok(None);
    }
    let image = store.image(name)?;
    let usable = image.architecture == request.platform.architecture
        && store.context().image_disk(&image.id).is_file();
    Ok(usable.then_some(image))
}

/// One pull under way.
struct Pull<'a> {
    context: Context,
    blobs: Blobs,
    registry: Registry,
    request: &'a PullRequest,
    progress: &'a dyn Progress,
}

impl Pull<'_> {
    /// The manifest for the platform, through an index where there is one.
    async fn manifest(&self) -> Result<(Manifest, Descriptor), Error> {
        let limits = &self.request.limits;
        let what = format!("the manifest of {}", self.request.reference.familiar());
        self.registry.login().await?;
        let bytes = self.registry.document(None, limits).await?;
        let (bytes, manifest) = match Document::parse(&bytes, &what, limits)? {
            Document::Manifest(manifest) => (bytes, manifest),
            Document::Index(index) => {
                let familiar = self.request.reference.familiar();
                let entry = index.choose(&self.request.platform, &familiar)?;
                let bytes = self.registry.document(Some(&entry.digest), limits).await?;
                match Document::parse(&bytes, &what, limits)? {
                    Document::Manifest(manifest) => (bytes, manifest),
                    Document::Index(_) => {
                        return Err(Error::malformed(&what, "an index within an index"));
                    }
                }
            }
        };
        let total = manifest
            .layers
            .iter()
            .map(|layer| layer.size)
            .fold(0, u64::saturating_add);
        limits.layer_bytes(&what, total)?;
        let media_type = match manifest.media_type.as_str() {
            "" => OCI_MANIFEST,
            given => given,
        };
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        let mut descriptor = Descriptor::new(media_type, digest, bytes.len() as u64);
        descriptor.platform = Some(self.request.platform.clone());
        if !self.blobs.has(&descriptor) {
            let staged = Staged::new(&self.context)?;
            self.blobs.store(&staged, &bytes)?;
        }
        Ok((manifest, descriptor))
    }

    /// Fetches the configuration; tells which layers are missing.
    async fn plan(
        &self,
        manifest: Manifest,
        descriptor: Descriptor,
    ) -> Result<(Plan, Vec<Descriptor>), Error> {
        let name = self.request.reference.familiar();
        let what = format!("the configuration of {name}");
        if !self.blobs.has(&manifest.config) {
            let staged = Staged::new(&self.context)?;
            let step = lib_model::Silent.step("", None);
            self.download(&manifest.config, &staged, &what, &*step)
                .await?;
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
            if self.blobs.has(layer) {
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
            manifest: descriptor,
            config_json,
            config,
            layers: manifest.layers,
        };
        Ok((plan, missing))
    }

    fn fetch_and_build(
        &self,
        runtime: &Runtime,
        plan: &Plan,
        missing: &[Descriptor],
    ) -> Result<(Staged, NewImage), Error> {
        let downloads = Staged::new(&self.context)?;
        let staged = Staged::new(&self.context)?;
        let arrivals = Arrivals::new(missing);
        let (cancel, cancelled) = oneshot::channel::<()>();
        let (built, fetched) = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| {
                let fetched =
                    runtime.block_on(self.fetch(missing, &downloads, &arrivals, cancelled));
                arrivals.close();
                fetched
            });
            let open = |layer: &Descriptor| arrivals.open(&layer.digest, &self.blobs);
            let built = build(plan, &staged, &open, &self.request.limits, self.progress);
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

    /// Downloads `missing`, a few at once, until all are here, one fails, or it is cancelled.
    async fn fetch(
        &self,
        missing: &[Descriptor],
        downloads: &Staged,
        arrivals: &Arrivals,
        cancelled: oneshot::Receiver<()>,
    ) -> Result<(), Error> {
        let all = async {
            let mut running = pin!(
                stream::iter(missing)
                    .map(|layer| async move {
                        let step = self.progress.step(&label(layer), Some(layer.size));
                        let what = format!("layer {}", layer.digest);
                        self.download(layer, downloads, &what, &*step).await?;
                        step.done("");
                        arrivals.arrived(&layer.digest);
                        Ok::<(), Error>(())
                    })
                    .buffer_unordered(PARALLEL)
            );
            while let Some(result) = running.next().await {
                result?;
            }
            Ok(())
        };
        // Dropping the sender without a word, as a successful build does, cancels nothing.
        let cancelled = async {
            if cancelled.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match select(pin!(all), pin!(cancelled)).await {
            Either::Left((result, _)) => result,
            Either::Right(((), _)) => Ok(()),
        }
    }

    async fn download(
        &self,
        blob: &Descriptor,
        staged: &Staged,
        what: &str,
        step: &dyn Step,
    ) -> Result<(), Error> {
        let mut writer = BlobWriter::new(staged, blob.digest.hex())?;
        self.registry.blob(blob, &mut writer, step).await?;
        writer.commit_as(&self.blobs, blob, what)
    }

    /// Removes blobs that were here before and are damaged, and returns them.
    fn damaged(&self, plan: &Plan, fresh: &[Descriptor]) -> Result<Vec<Descriptor>, Error> {
        let mut damaged: Vec<Descriptor> = Vec::new();
        for layer in plan.layers.iter().rev() {
            let known = fresh
                .iter()
                .chain(&damaged)
                .any(|there| there.digest == layer.digest);
            if !known && self.blobs.has(layer) && self.blobs.remove_if_damaged(&layer.digest)? {
                damaged.push(layer.clone());
            }
        }
        Ok(damaged)
    }
}

fn label(layer: &Descriptor) -> String {
    format!("layer {}", layer.digest.short())
}

/// Lets equal pulls wait for each other.
struct Turns {
    locks: Locks,
    waits: mpsc::Receiver<Wait>,
    done: mpsc::Sender<Wait>,
}

enum Wait {
    For(Option<Holder>),
    Over,
}

impl Turns {
    fn new(context: &Context) -> Self {
        let (tell, waits) = mpsc::channel();
        let done = tell.clone();
        let locks = Locks::new(context, move |_, holder| {
            // Nobody listens only when nobody cares any more.
            let _ = tell.send(Wait::For(holder.cloned()));
        });
        Turns { locks, waits, done }
    }

    /// Waits for this pull's turn; shows for whom it waits.
    fn take(
        &mut self,
        request: &PullRequest,
        progress: &dyn Progress,
    ) -> Result<LeafGuard<'_>, Error> {
        let key = format!("{} {}", request.reference, request.platform);
        let key = Digest::from_sha256(Sha256::digest(key).into());
        let lock = format!("pull-{}", &key.hex()[..32]);
        let Turns { locks, waits, done } = self;
        let guard = std::thread::scope(|scope| {
            let taking = scope.spawn(move || {
                let guard = locks.leaf(&lock);
                let _ = done.send(Wait::Over);
                guard
            });
            if let Ok(Wait::For(holder)) = waits.recv() {
                let step = progress.step(&waiting_for(holder.as_ref()), None);
                while let Ok(Wait::For(_)) = waits.recv() {}
                step.done("");
            }
            taking.join()
        });
        match guard {
            Ok(guard) => Ok(guard?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn waiting_for(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("waiting for the same pull (process {})", holder.pid),
        None => "waiting for the same pull".to_owned(),
    }
}
