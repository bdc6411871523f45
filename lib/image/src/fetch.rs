//! The downloads of a pull: a few blobs at once, each by one command only.

use std::pin::pin;

use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use lib_model::Step;
use tokio::sync::oneshot;

use crate::Error;
use crate::arrivals::Arrivals;
use crate::claim::{Claim, Thing, waiting_for};
use crate::manifest::Descriptor;
use crate::partial::Partial;
use crate::pull::Pull;

/// Layers downloaded at once.
const PARALLEL: usize = 3;

impl Pull<'_> {
    /// Downloads `missing`, a few at once, until all are here, one fails, or it is cancelled.
    pub(crate) async fn fetch(
        &self,
        missing: &[Descriptor],
        arrivals: &Arrivals,
        cancelled: oneshot::Receiver<()>,
    ) -> Result<(), Error> {
        let all = async {
            let mut running = pin!(
                stream::iter(missing)
                    .map(|layer| async move {
                        let step = self.progress.step(&label(layer), Some(layer.size));
                        let what = format!("layer {}", layer.digest);
                        let note = self.download(layer, &what, &*step, Some(arrivals)).await?;
                        step.done(note);
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

    /// Downloads a blob, unless somebody else just does; what is there of it is continued.
    pub(crate) async fn download(
        &self,
        blob: &Descriptor,
        what: &str,
        step: &dyn Step,
        arrivals: Option<&Arrivals>,
    ) -> Result<&'static str, Error> {
        let Some(registry) = &self.registry else {
            return Err(Error::Offline {
                what: self.request.reference.familiar(),
                missing: vec![what.to_owned()],
            });
        };
        let claim = self.claim_blob(blob).await?;
        if self.blobs.has(&self.pins, blob) {
            return Ok("another command brought it");
        }
        let mut partial = Partial::open(&self.downloads, blob, claim)?;
        step.advance(partial.written());
        match arrivals {
            Some(arrivals) => {
                let growing = arrivals.begin(&blob.digest, partial.path(), step);
                registry.blob(blob, &mut partial, what, &growing).await?;
            }
            None => registry.blob(blob, &mut partial, what, step).await?,
        }
        self.publish(partial, blob).await?;
        Ok("")
    }

    /// Puts a blob into its place, on a thread of its own: the other downloads go on while it is
    /// synced.
    async fn publish(&self, partial: Partial, blob: &Descriptor) -> Result<(), Error> {
        let (blobs, digest) = (self.blobs.clone(), blob.digest.clone());
        let publish = move || partial.publish(&blobs, &digest);
        match tokio::task::spawn_blocking(publish).await {
            Ok(published) => published,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(Error::Client(error.into())),
            },
        }
    }

    /// Waits, on a thread of its own: the other downloads go on.
    async fn claim_blob(&self, blob: &Descriptor) -> Result<Claim, Error> {
        let holder = match Claim::try_take(&self.downloads, Thing::Blob, &blob.digest)? {
            Ok(claim) => return Ok(claim),
            Err(holder) => holder,
        };
        let waiting = waiting_for(&label(blob), holder.as_ref());
        let step = self.progress.step(&waiting, None);
        let (tell, hears) = oneshot::channel();
        let (directory, digest) = (self.downloads.clone(), blob.digest.clone());
        std::thread::spawn(move || {
            let claim = Claim::take(&directory, Thing::Blob, &digest, &mut |_| {});
            // Nobody listens after a failure elsewhere; then the claim falls again.
            let _ = tell.send(claim);
        });
        let claim = match hears.await {
            Ok(claim) => claim?,
            Err(error) => return Err(Error::Client(error.into())),
        };
        step.done("");
        Ok(claim)
    }
}

/// What a layer is called in progress.
pub(crate) fn label(layer: &Descriptor) -> String {
    format!("layer {}", layer.digest.short())
}
