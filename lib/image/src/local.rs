//! What a reference means without the network: what the blobs here still know of it.

use lib_model::Digest;

use crate::blobs::Blobs;
use crate::manifest::{Descriptor, Document};
use crate::pull::Found;
use crate::{Error, PullRequest};

/// The blobs as a place to look references up.
pub(crate) struct Local<'a> {
    blobs: &'a Blobs,
}

impl<'a> Local<'a> {
    pub(crate) fn new(blobs: &'a Blobs) -> Self {
        Local { blobs }
    }

    /// The manifest that the reference had when it was last pulled, or has by its digest.
    ///
    /// # Errors
    /// [`Error::Offline`] when nothing is known of it.
    pub(crate) fn manifest(&self, request: &PullRequest) -> Result<Found, Error> {
        let name = request.reference.familiar();
        let unknown = || Error::Offline {
            what: name.clone(),
            missing: Vec::new(),
        };
        let digest = match request.reference.digest() {
            Some(digest) => digest.clone(),
            None => self.blobs.named(&name)?.ok_or_else(unknown)?.digest,
        };
        if !self.blobs.path(&digest).is_file() {
            return Err(unknown());
        }
        self.parse(&digest, request)
    }

    fn parse(&self, digest: &Digest, request: &PullRequest) -> Result<Found, Error> {
        let what = format!("manifest {}", digest.short());
        let bytes = self.blobs.read(digest, &what, &request.limits)?;
        match Document::parse(&bytes, &what, &request.limits)? {
            Document::Manifest(manifest) => Found::new(manifest, bytes, &what, request),
            Document::Index(_) => Err(Error::malformed(&what, "an index, not a manifest")),
        }
    }
}

/// The manifest of an image that is here.
///
/// # Errors
/// A blob that is missing, damaged, or no manifest.
pub(crate) fn manifest_of(
    blobs: &Blobs,
    digest: &Digest,
    limits: &crate::Limits,
) -> Result<(crate::manifest::Manifest, Descriptor), Error> {
    let what = format!("manifest {}", digest.short());
    let bytes = blobs.read(digest, &what, limits)?;
    match Document::parse(&bytes, &what, limits)? {
        Document::Manifest(manifest) => {
            let descriptor = Descriptor::new(manifest.kind(), digest.clone(), bytes.len() as u64);
            Ok((manifest, descriptor))
        }
        Document::Index(_) => Err(Error::malformed(&what, "an index, not a manifest")),
    }
}
