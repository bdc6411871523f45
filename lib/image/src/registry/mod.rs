//! One repository in a registry and its mirrors, over HTTP (distribution-spec). The only async
//! code, and the only user of the HTTP client.
//!
//! A registry is hostile: nothing that it sends is read without a bound. That is why oci-client,
//! which reads manifests, tokens and refusals to their end and hides `Retry-After`, serves for the
//! protocol's error codes only.

mod auth;
mod body;
mod credentials;
mod endpoint;
mod fault;
mod helper;
mod options;
mod retry;
mod trust;

use std::sync::atomic::{AtomicUsize, Ordering};

use lib_model::{Digest, Reference, Step};

pub use credentials::credential_files;
pub use options::RegistryOptions;
pub use retry::Retry;

use crate::blobs::check_digest;
use crate::manifest::{ACCEPTED, Descriptor};
use crate::partial::Partial;
use crate::{Error, Limits};
use endpoint::{Endpoint, Request};
use fault::Fault;
use retry::Backoff;

/// The repository of one reference: its mirrors in their order, then the registry itself.
pub(crate) struct Registry {
    endpoints: Vec<Endpoint>,
    /// The endpoint that had the manifest is asked first for everything else.
    preferred: AtomicUsize,
    reference: Reference,
    retry: Retry,
}

impl Registry {
    /// Makes the clients; nothing is sent yet. Costs 10 ms and more (the CA store).
    ///
    /// # Errors
    /// [`Error::Client`] without a usable CA store; CA files that cannot be used.
    pub(crate) fn new(reference: &Reference, options: &RegistryOptions) -> Result<Self, Error> {
        // An error only says that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mirrors = options.mirrors.get(reference.registry());
        let mut endpoints = Vec::new();
        for mirror in mirrors.into_iter().flatten() {
            endpoints.push(Endpoint::mirror(mirror, reference, options)?);
        }
        endpoints.push(Endpoint::origin(reference, options)?);
        Ok(Registry {
            endpoints,
            preferred: AtomicUsize::new(0),
            reference: reference.clone(),
            retry: options.retry.clone(),
        })
    }

    /// The manifest or index of the reference, or the one with `digest`, checked.
    ///
    /// # Errors
    /// What the registry says, [`Error::DigestMismatch`], [`Error::Limit`]; with mirrors, what the
    /// last one asked says, which is the registry itself.
    pub(crate) async fn document(
        &self,
        digest: Option<&Digest>,
        limits: &Limits,
    ) -> Result<Vec<u8>, Error> {
        let pinned = digest.or(self.reference.digest());
        let what = match digest {
            Some(digest) => format!(
                "manifest {}/{}@{digest}",
                self.reference.registry(),
                self.reference.repository()
            ),
            None => format!("manifest {}", self.reference),
        };
        let tag = self.reference.tag().unwrap_or("latest");
        let name = pinned.map_or(tag, Digest::as_str);
        let request = Request {
            path: &format!("manifests/{name}"),
            accept: &ACCEPTED.join(", "),
            from: 0,
            what: &what,
        };
        let mut last = None;
        for (index, endpoint) in self.in_order() {
            let backoff = self.backoff(index);
            let bytes = match bounded(endpoint, backoff, &request, limits).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match pinned.map_or(Ok(()), |digest| check_digest(&bytes, digest, &what)) {
                Ok(()) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(bytes);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::malformed(&what, "nobody has it")))
    }

    /// Downloads a blob into `partial`, behind what is there already, until its digest is right.
    ///
    /// # Errors
    /// What the registry says, [`Error::Truncated`], [`Error::TooLong`], [`Error::DigestMismatch`].
    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        partial: &mut Partial,
        what: &str,
        step: &dyn Step,
    ) -> Result<(), Error> {
        let mut last = None;
        for (index, endpoint) in self.in_order() {
            loop {
                // What an earlier command left, or a mirror sent, may be what is wrong.
                let own = partial.written() == 0;
                let backoff = self.backoff(index);
                let error = match whole_blob(endpoint, backoff, blob, partial, step).await {
                    Ok(()) => match partial.check(blob, what) {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    },
                    Err(error @ (Error::Io { .. } | Error::Store(_))) => return Err(error),
                    Err(error @ Error::TooLong { .. }) => error,
                    Err(error) => {
                        last = Some(error);
                        break;
                    }
                };
                partial.restart()?;
                last = Some(error);
                if own {
                    break;
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::malformed(what, "nobody has it")))
    }

    /// The endpoints from the preferred one on.
    fn in_order(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        self.endpoints.iter().enumerate().skip(preferred)
    }

    /// A mirror has little patience: the next one is asked instead.
    fn backoff(&self, index: usize) -> Backoff {
        let mut retry = self.retry.clone();
        if index + 1 < self.endpoints.len() {
            retry.attempts = retry.attempts.min(2);
        }
        retry.start()
    }
}

/// A document that ends before the limit, however long the registry says or sends it.
async fn bounded(
    endpoint: &Endpoint,
    mut backoff: Backoff,
    request: &Request<'_>,
    limits: &Limits,
) -> Result<Vec<u8>, Error> {
    loop {
        let read = async {
            let response = endpoint.get(request).await?;
            body::document(response, endpoint.host(), request.what, limits).await
        };
        match read.await {
            Ok(bytes) => return Ok(bytes),
            Err(fault) => backoff.wait(fault).await?,
        }
    }
}

async fn whole_blob(
    endpoint: &Endpoint,
    mut backoff: Backoff,
    blob: &Descriptor,
    partial: &mut Partial,
    step: &dyn Step,
) -> Result<(), Error> {
    // Of an empty blob there is nothing to ask for.
    while partial.written() < blob.size {
        let before = partial.written();
        if let Err(fault) = blob_from_here(endpoint, blob, partial, step).await {
            backoff.progressed(partial.written().saturating_sub(before));
            backoff.wait(fault).await?;
        }
    }
    Ok(())
}

async fn blob_from_here(
    endpoint: &Endpoint,
    blob: &Descriptor,
    partial: &mut Partial,
    step: &dyn Step,
) -> Result<(), Fault> {
    let what = format!("blob {}", blob.digest);
    let request = Request {
        path: &format!("blobs/{}", blob.digest),
        accept: "application/octet-stream, */*",
        from: partial.written(),
        what: &what,
    };
    let mut response = endpoint.get(&request).await?;
    if request.from > 0 && !body::continues_at(&response, request.from) {
        partial.restart().map_err(Fault::lasting)?;
        // An answer that continues somewhere else is of no use at all.
        if response.status() == reqwest::StatusCode::PARTIAL_CONTENT {
            return Err(Fault::transient(Error::Protocol {
                registry: endpoint.host().to_owned(),
                what,
                source: "it sent another range than was asked for".into(),
            }));
        }
    }
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| fault::connection(error, endpoint.host(), &what))?
    {
        if partial.written() + chunk.len() as u64 > blob.size {
            return Err(Fault::lasting(Error::TooLong {
                what,
                expected: blob.size,
            }));
        }
        partial.write(&chunk).map_err(Fault::lasting)?;
        step.advance(chunk.len() as u64);
    }
    if partial.written() < blob.size {
        let received = partial.written();
        return Err(Fault::transient(Error::Truncated {
            what,
            expected: blob.size,
            received,
        }));
    }
    Ok(())
}
