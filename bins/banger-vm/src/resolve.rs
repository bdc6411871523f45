//! From what was typed to an image and a kernel; fetched or made when they are not here. No lock is
//! held meanwhile.

use lib_cli::{Failure, Session};
use lib_config::{Config, Environment};
use lib_image::{Limits, PullRequest, RegistryOptions};
use lib_model::{ImageRecord, KernelId, KernelRecord, Progress, Reference};
use lib_store::{Locks, Store, StoreError};

use crate::cli::Pull;

/// The image of this name or id; pulled when it is a reference and `pull` allows. Without a name,
/// the host's own distribution, made once.
///
/// # Errors
/// No such image, here or in its registry.
pub(crate) fn image(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    selector: Option<&str>,
    pull: Pull,
) -> Result<ImageRecord, Failure> {
    let Some(selector) = selector.filter(|selector| *selector != lib_defaults::HOST) else {
        return host_image(session, store, locks);
    };
    let here = store.image(selector);
    match (here, pull) {
        (Ok(image), Pull::Missing | Pull::Never) => Ok(image),
        (Err(error @ StoreError::NotFound { .. }), Pull::Missing | Pull::Always) => {
            match Reference::try_from(selector) {
                Ok(reference) => fetch(session, store, locks, &reference),
                Err(_) => Err(error.into()),
            }
        }
        (Ok(image), Pull::Always) => match Reference::try_from(selector) {
            Ok(reference) if !image.id.as_str().starts_with(selector) => {
                fetch(session, store, locks, &reference)
            }
            _ => Ok(image),
        },
        (Err(error), _) => Err(error.into()),
    }
}

fn fetch(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    reference: &Reference,
) -> Result<ImageRecord, Failure> {
    session.note(&format!("pulling {reference}"));
    let _tidy = session.tidy()?;
    let config = Config::load(&Environment::process())?;
    let registry = RegistryOptions::configured(&config.registry, std::env::var_os);
    let limits = Limits::configured(&config.limits);
    let request = PullRequest {
        registry,
        limits,
        ..PullRequest::new(reference.clone())
    };
    // Until there is a layer to show.
    let step = session.bars.step(&format!("pulling {reference}"), None);
    let image = lib_image::pull(store, locks, &request, &*session.bars)?;
    step.done("");
    Ok(image)
}

fn host_image(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
) -> Result<ImageRecord, Failure> {
    if let Err(StoreError::NotFound { .. }) = store.image(lib_defaults::HOST) {
        session.note("no image was named: making one of the host's own distribution, once");
    }
    let _tidy = session.tidy()?;
    Ok(lib_defaults::image(store, locks, &*session.bars)?)
}

/// The kernel of this name or id. Without a name, the one that the image brings, else the configured one, else the
/// newest; without any, the one of the host's own distribution, fetched once.
///
/// # Errors
/// No such kernel, or it cannot be fetched.
pub(crate) fn kernel(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    image: &ImageRecord,
    selector: Option<&str>,
) -> Result<KernelRecord, Failure> {
    let own = image.kernel.as_ref().map(KernelId::as_str);
    let config = Config::load(&Environment::process())?;
    let configured = config.default.kernel.as_ref().map(|name| name.as_str());
    if let Some(selector) = selector.or(own).or(configured) {
        return Ok(store.kernel(selector)?);
    }
    if store.kernels()?.is_empty() {
        session.note("no kernel is here: fetching the one of the host's own distribution, once");
    }
    let _tidy = session.tidy()?;
    Ok(lib_defaults::kernel(store, locks, &*session.bars)?)
}
