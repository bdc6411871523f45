//! Which layers are here, for a builder that reads layers while they still download.
//!
//! The end of a layer's stream comes only after its digest was checked; an earlier byte may be
//! wrong, as any byte before the diff-id's check may.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lib_model::{Digest, Step};

use crate::blobs::Blobs;
use crate::manifest::Descriptor;

/// Bytes that a reader is woken for: fewer are not worth the way to another processor.
const WAKE: u64 = 256 << 10;

/// The layers that are still to come.
#[derive(Clone)]
pub(crate) struct Arrivals(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// With the file that grows, once there is one.
    missing: BTreeMap<Digest, Option<PathBuf>>,
    /// Those that are read while they grow.
    followed: BTreeSet<Digest>,
    /// How often a file has grown.
    grown: u64,
    closed: bool,
}

impl Arrivals {
    pub(crate) fn new(missing: &[Descriptor]) -> Self {
        let missing = missing.iter().map(|layer| (layer.digest.clone(), None));
        Arrivals(Arc::new(Shared {
            state: Mutex::new(State {
                missing: missing.collect(),
                followed: BTreeSet::new(),
                grown: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }))
    }

    /// The download of a layer writes to `file`, and reports each write to the returned step.
    pub(crate) fn begin<'a>(
        &'a self,
        digest: &Digest,
        file: &Path,
        step: &'a dyn Step,
    ) -> Growing<'a> {
        let mut state = self.state();
        if let Some(place) = state.missing.get_mut(digest) {
            *place = Some(file.to_owned());
        }
        drop(state);
        self.0.changed.notify_all();
        Growing {
            arrivals: self,
            step,
            unsaid: AtomicU64::new(0),
        }
    }

    /// This layer is in the blobs.
    pub(crate) fn arrived(&self, digest: &Digest) {
        self.state().missing.remove(digest);
        self.0.changed.notify_all();
    }

    /// Nothing more arrives; who waits for what is missing gets an error.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.0.changed.notify_all();
    }

    /// Opens a layer's blob, when it is here or has begun to arrive.
    ///
    /// # Errors
    /// When the layer never arrives: the download failed, and its own error says why.
    pub(crate) fn open(&self, digest: &Digest, blobs: &Blobs) -> io::Result<Box<dyn Read + Send>> {
        let mut state = self.state();
        while let Some(file) = state.missing.get(digest) {
            if let Some(file) = file.as_ref().and_then(opened).transpose()? {
                state.followed.insert(digest.clone());
                return Ok(Box::new(Following {
                    arrivals: self.clone(),
                    digest: digest.clone(),
                    file,
                }));
            }
            if state.closed {
                return Err(failed());
            }
            state = self.wait(state);
        }
        drop(state);
        Ok(Box::new(File::open(blobs.path(digest))?))
    }

    /// Waits until it is known of every layer that was read early whether it is what it should be.
    /// True when there were such layers and all are: what was read of them may not have been, as
    /// a download that begins anew replaces what it had; now it can be read again.
    pub(crate) fn settle(&self) -> bool {
        let mut state = self.state();
        let settled = loop {
            let State {
                missing, followed, ..
            } = &*state;
            if state.closed && !missing.is_empty() {
                // A download failed, and that is the cause.
                break false;
            }
            if followed.iter().all(|digest| !missing.contains_key(digest)) {
                break !followed.is_empty();
            }
            state = self.wait(state);
        };
        state.followed.clear();
        settled
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let state = self.0.changed.wait(state);
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

/// None for a file that has just gone to its place among the blobs.
fn opened(file: &PathBuf) -> Option<io::Result<File>> {
    match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        result => Some(result),
    }
}

fn failed() -> io::Error {
    io::Error::other("its download failed")
}

/// Tells readers that a file has grown.
pub(crate) struct Growing<'a> {
    arrivals: &'a Arrivals,
    step: &'a dyn Step,
    /// Bytes since readers were woken.
    unsaid: AtomicU64,
}

impl Step for Growing<'_> {
    fn advance(&self, amount: u64) {
        self.step.advance(amount);
        // Only the download's own thread counts here.
        let unsaid = self.unsaid.load(Ordering::Relaxed) + amount;
        self.unsaid.store(unsaid % WAKE, Ordering::Relaxed);
        if unsaid >= WAKE {
            self.arrivals.state().grown += 1;
            self.arrivals.0.changed.notify_all();
        }
    }

    fn done(&self, note: &str) {
        self.step.done(note);
    }
}

/// Reads a file that grows, up to its end when it has arrived. A download that begins anew makes
/// the file shorter for a while; other bytes than before show in the diff-id.
struct Following {
    arrivals: Arrivals,
    digest: Digest,
    file: File,
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Before the read: what is whole now has no byte that the read could miss.
            let (whole, seen) = {
                let state = self.arrivals.state();
                (!state.missing.contains_key(&self.digest), state.grown)
            };
            let count = self.file.read(buffer)?;
            if count > 0 || whole || buffer.is_empty() {
                return Ok(count);
            }
            let mut state = self.arrivals.state();
            while state.grown == seen && state.missing.contains_key(&self.digest) {
                if state.closed {
                    return Err(failed());
                }
                state = self.arrivals.wait(state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use lib_model::Silent;

    use super::*;

    fn layer() -> (Descriptor, Arrivals) {
        let layer = Descriptor::new("", Digest::from_sha256([7; 32]), 6);
        let arrivals = Arrivals::new(std::slice::from_ref(&layer));
        (layer, arrivals)
    }

    /// A layer of which nobody needs the blobs: it is opened while it grows.
    fn followed(arrivals: &Arrivals, layer: &Descriptor, file: &Path) -> Box<dyn Read + Send> {
        let store = file.parent().unwrap().join("store");
        let context = lib_store::Context::from_environment(Some(&store), |_| None).unwrap();
        lib_store::Store::open(&context).unwrap();
        let blobs = Blobs::open(&context).unwrap();
        arrivals.begin(&layer.digest, file, &Silent);
        arrivals.open(&layer.digest, &blobs).unwrap()
    }

    #[test]
    fn a_growing_file_ends_when_it_has_arrived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        let mut file = File::create(&path).unwrap();
        let (layer, arrivals) = layer();
        let mut reader = followed(&arrivals, &layer, &path);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut buffer = [0; 4];
                loop {
                    let count = reader.read(&mut buffer).unwrap();
                    tell.send(buffer[..count].to_vec()).unwrap();
                    if count == 0 {
                        return;
                    }
                }
            });
            let growing = arrivals.begin(&layer.digest, &path, &Silent);
            for part in [&b"abc"[..], b"def"] {
                file.write_all(part).unwrap();
                growing.advance(WAKE);
                assert_eq!(told.recv().unwrap(), part);
            }
            file.write_all(b"g").unwrap();
            growing.advance(1);
            assert!(
                told.try_recv().is_err(),
                "no end before the digest is known"
            );
            arrivals.arrived(&layer.digest);
            assert_eq!(told.recv().unwrap(), b"g");
            assert_eq!(told.recv().unwrap(), b"");
        });
    }

    #[test]
    fn a_download_that_begins_anew_is_read_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        std::fs::write(&path, b"abcd").unwrap();
        let (layer, arrivals) = layer();
        let mut reader = followed(&arrivals, &layer, &path);
        let mut buffer = [0; 4];
        reader.read_exact(&mut buffer).unwrap();
        std::fs::write(&path, b"ab").unwrap();
        std::fs::write(&path, b"abcdef").unwrap();
        arrivals.arrived(&layer.digest);
        assert!(arrivals.settle());
        assert!(!arrivals.settle(), "nothing was read since");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!((&buffer, &rest[..]), (b"abcd", &b"ef"[..]));
    }

    #[test]
    fn a_failed_download_is_an_error_and_settles() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        std::fs::write(&path, b"abc").unwrap();
        let (layer, arrivals) = layer();
        let mut reader = followed(&arrivals, &layer, &path);
        arrivals.close();
        assert!(!arrivals.settle());
        let mut all = Vec::new();
        let error = reader.read_to_end(&mut all).unwrap_err();
        assert_eq!(
            (&all[..], error.to_string().as_str()),
            (&b"abc"[..], "its download failed")
        );
    }
}
