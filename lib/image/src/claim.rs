//! Claims: the right to make one thing, an image or a blob, while others wait for it.
//!
//! Claims are not of the store's ordered locks. One is held across a download, which no ordered
//! lock ever is; what keeps that free of deadlocks is that a claim on an image comes before claims
//! on blobs, and that whoever holds the claim on a blob waits for nobody: not for another claim,
//! and not for an ordered lock. They are named by digest, so that only equal work waits.
//!
//! The file of a claim is removed with it. Who takes a lock looks whether its file is still the one
//! that the name means, as staging does.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use banger_failpoint::passed;
use lib_model::Digest;
use lib_store::{Context, FileLock, Holder, now_ms, private_dir};

use crate::Error;

/// What is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thing {
    /// An image, by its manifest.
    Image,
    /// A blob.
    Blob,
}

/// Held as long as this value lives, and no longer than the process does.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    _lock: FileLock,
}

/// Directory of claims and of blobs that are not whole yet.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn directory(context: &Context) -> Result<PathBuf, Error> {
    let directory = context.cache().join("downloads");
    private_dir(&directory)?;
    Ok(directory)
}

impl Claim {
    /// Claims what nobody has claimed; else says who did, where that is known.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub(crate) fn try_take(
        directory: &Path,
        thing: Thing,
        digest: &Digest,
    ) -> Result<Result<Claim, Option<Holder>>, Error> {
        let path = path(directory, thing, digest);
        loop {
            let Some(lock) = FileLock::try_take(&path).map_err(Error::io("lock", &path))? else {
                return Ok(Err(holder(&path)));
            };
            // Its last holder may have removed the file between our opening and our lock.
            if lock.is_at(&path) {
                write_holder(&path).map_err(Error::io("write", &path))?;
                return Ok(Ok(Claim { path, _lock: lock }));
            }
        }
    }

    /// Claims, after those who came before; `waiting` hears whom each wait is for.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub(crate) fn take(
        directory: &Path,
        thing: Thing,
        digest: &Digest,
        waiting: &mut dyn FnMut(Option<&Holder>),
    ) -> Result<Claim, Error> {
        loop {
            match Claim::try_take(directory, thing, digest)? {
                Ok(claim) => return Ok(claim),
                Err(holder) => {
                    waiting(holder.as_ref());
                    let path = path(directory, thing, digest);
                    FileLock::wait_free(&path).map_err(Error::io("wait for", &path))?;
                }
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        passed("claim.drop");
        // Before the lock falls; a file that stays is only untidy.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn path(directory: &Path, thing: Thing, digest: &Digest) -> PathBuf {
    let kind = match thing {
        Thing::Image => "image",
        Thing::Blob => "blob",
    };
    directory.join(format!("{kind}-{}.lock", digest.hex()))
}

/// What a wait is called.
pub(crate) fn waiting_for(what: &str, holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("waiting for {what} (process {})", holder.pid),
        None => format!("waiting for {what}"),
    }
}

fn holder(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Through a descriptor of its own: these locks belong to the description that took them.
fn write_holder(path: &Path) -> io::Result<()> {
    let command: Vec<String> = std::env::args().take(4).collect();
    let holder = Holder {
        pid: std::process::id(),
        command: command.join(" ").chars().take(200).collect(),
        since_ms: now_ms(),
    };
    let mut file = std::fs::File::options()
        .write(true)
        .truncate(true)
        .open(path)?;
    file.write_all(&serde_json::to_vec(&holder)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn equal_claims_wait_for_each_other_and_leave_nothing() {
        let base = tempfile::tempdir().unwrap();
        let digest = Digest::from_sha256([1; 32]);
        let first = Claim::try_take(base.path(), Thing::Image, &digest)
            .unwrap()
            .unwrap();
        let other = Claim::try_take(base.path(), Thing::Blob, &digest)
            .unwrap()
            .unwrap();
        let holder = Claim::try_take(base.path(), Thing::Image, &digest)
            .unwrap()
            .unwrap_err();
        assert_eq!(holder.unwrap().pid, std::process::id());
        let (tell, hears) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let tell = tell.clone();
                scope.spawn({
                    let (directory, digest) = (base.path(), &digest);
                    move || {
                        let mut waits = 0;
                        let claim = Claim::take(directory, Thing::Image, digest, &mut |holder| {
                            waits += 1;
                            if waits == 1 {
                                tell.send(holder.map(|holder| holder.pid)).unwrap();
                            }
                        })
                        .unwrap();
                        // Nobody else has it: the file is ours as long as we hold it.
                        assert!(claim.path.exists());
                        assert!(
                            Claim::try_take(directory, Thing::Image, digest)
                                .unwrap()
                                .is_err()
                        );
                    }
                });
            }
            for _ in 0..4 {
                assert_eq!(hears.recv().unwrap(), Some(std::process::id()));
            }
            drop(first);
        });
        drop(other);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
