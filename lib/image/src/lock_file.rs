//! A file that says what references meant when they were pulled: `{"version":1,"images":{…}}`, from
//! complete references to the digests of what the registry had: an index, or else a manifest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use lib_model::{Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::Error;

const VERSION: u32 = 1;
/// No lock file is longer, in bytes.
const LONGEST: u64 = 16 << 20;

/// What is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFile {
    /// The file.
    pub path: PathBuf,
    /// Only what is in it may be pulled; nothing is added.
    pub frozen: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    images: BTreeMap<String, Digest>,
}

impl LockFile {
    /// The digest that is locked, before anything is asked of the network.
    ///
    /// # Errors
    /// [`Error::NotLocked`] when nothing else may be pulled; a file that does not parse.
    pub(crate) fn locked(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        let content = read(&self.path)?;
        let name = reference.to_string();
        match content.images.get(&name) {
            Some(digest) => Ok(Some(digest.clone())),
            None if self.frozen => Err(Error::NotLocked {
                path: self.path.clone(),
                reference: name,
            }),
            None => Ok(None),
        }
    }

    /// What the registry has for the reference: compared, or remembered.
    ///
    /// # Errors
    /// [`Error::LockDiffers`]; a file that cannot be written.
    pub(crate) fn found(&self, reference: &Reference, digest: &Digest) -> Result<(), Error> {
        if self.frozen {
            return match self.locked(reference)? {
                Some(locked) if locked != *digest => Err(Error::LockDiffers {
                    path: self.path.clone(),
                    reference: reference.to_string(),
                    locked,
                    actual: digest.clone(),
                }),
                _ => Ok(()),
            };
        }
        // The directory is locked, not the file: the file is replaced.
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let lock = File::open(directory).map_err(Error::io("open", directory))?;
        lock.lock().map_err(Error::io("lock", directory))?;
        let mut content = read(&self.path)?;
        let name = reference.to_string();
        if content.images.get(&name) == Some(digest) {
            return Ok(());
        }
        content.images.insert(name, digest.clone());
        let mut text = serde_json::to_vec_pretty(&content)
            .map_err(|error| Error::malformed(&self.path.to_string_lossy(), error))?;
        text.push(b'\n');
        replace(&self.path, &text)
    }
}

fn read(path: &Path) -> Result<Content, Error> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file
            .take(LONGEST)
            .read_to_string(&mut text)
            .map_err(Error::io("read", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Content {
                version: VERSION,
                images: BTreeMap::new(),
            });
        }
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let what = path.to_string_lossy();
    let content: Content =
        serde_json::from_str(&text).map_err(|error| Error::malformed(&what, error))?;
    if content.version != VERSION {
        let reason = format!("its version is {}, not {VERSION}", content.version);
        return Err(Error::malformed(&what, reason));
    }
    Ok(content)
}

/// Whole or not at all, and with the permissions that new files get.
fn replace(path: &Path, text: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let mut file = File::create(&new).map_err(Error::io("create", &new))?;
    let written = file
        .write_all(text)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        Error::io("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_remembered_and_frozen() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("images.lock");
        let open = |frozen| LockFile {
            path: path.clone(),
            frozen,
        };
        let (one, two) = (Digest::from_sha256([1; 32]), Digest::from_sha256([2; 32]));
        let reference = Reference::try_from("r.example/app:1").unwrap();
        let other = Reference::try_from("r.example/app:2").unwrap();
        let missing = open(true).locked(&reference).unwrap_err();
        assert!(matches!(missing, Error::NotLocked { .. }), "{missing}");
        assert_eq!(open(false).locked(&reference).unwrap(), None);
        open(false).found(&reference, &one).unwrap();
        open(false).found(&other, &one).unwrap();
        assert_eq!(open(true).locked(&reference).unwrap(), Some(one.clone()));
        open(true).found(&reference, &one).unwrap();
        let moved = open(true).found(&reference, &two).unwrap_err();
        assert!(matches!(moved, Error::LockDiffers { .. }), "{moved}");
        open(false).found(&reference, &two).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\n  \"version\": 1,\n  \"images\": {{\n    \"r.example/app:1\": \"{two}\",\n    \
                 \"r.example/app:2\": \"{one}\"\n  }}\n}}\n"
            )
        );
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
        for bad in [
            "{",
            "{\"version\":2,\"images\":{}}",
            "{\"version\":1,\"images\":{\"a\":\"b\"}}",
        ] {
            fs::write(&path, bad).unwrap();
            assert!(open(false).locked(&reference).is_err(), "{bad}");
        }
    }
}
