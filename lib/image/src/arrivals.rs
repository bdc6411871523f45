//! Which layers are whole, for a builder that waits for layers that still download.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lib_model::Digest;

use crate::blobs::Blobs;
use crate::manifest::Descriptor;

/// The layers that are still to come.
pub(crate) struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    missing: BTreeSet<Digest>,
    closed: bool,
}

impl Arrivals {
    pub(crate) fn new(missing: &[Descriptor]) -> Self {
        let missing = missing.iter().map(|layer| layer.digest.clone()).collect();
        Arrivals {
            state: Mutex::new(State {
                missing,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// This layer is in the blobs.
    pub(crate) fn arrived(&self, digest: &Digest) {
        self.state().missing.remove(digest);
        self.changed.notify_all();
    }

    /// Nothing more arrives; who waits for what is missing gets an error.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Opens a layer's blob, when it is here.
    ///
    /// # Errors
    /// When the layer never arrives: the download failed, and its own error says why.
    pub(crate) fn open(&self, digest: &Digest, blobs: &Blobs) -> io::Result<Box<dyn Read + Send>> {
        let mut state = self.state();
        while state.missing.contains(digest) {
            if state.closed {
                return Err(io::Error::other("its download failed"));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(Box::new(File::open(blobs.path(digest))?))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
