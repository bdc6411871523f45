//! Names in the store (the Nix manual, "Store Path").

use std::path::{Path, PathBuf};

use crate::Error;

/// The store's directory; the only one that hashes of public caches are for.
pub const STORE: &str = "/nix/store";

/// Characters of a store path's hash: no e, o, u, t.
const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";
const HASH_LENGTH: usize = 32;
const LONGEST_NAME: usize = 211;

/// An object of the store, such as `/nix/store/…-hello-2.12`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(String);

impl StorePath {
    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a path of the host.
    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Without the hash: `hello-2.12`.
    pub fn name(&self) -> &str {
        &self.0[STORE.len() + 1 + HASH_LENGTH + 1..]
    }

    /// The object that a path below the store lies in.
    ///
    /// # Errors
    /// [`Error::NotInStore`].
    pub fn containing(path: &Path) -> Result<StorePath, Error> {
        let first = path
            .strip_prefix(STORE)
            .ok()
            .and_then(|rest| rest.components().next());
        let outside = || Error::NotInStore(path.to_owned());
        let first = first.and_then(|name| name.as_os_str().to_str());
        let first = first.ok_or_else(outside)?;
        StorePath::try_from(&*format!("{STORE}/{first}")).map_err(|_| outside())
    }
}

impl TryFrom<&str> for StorePath {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        let valid = text
            .strip_prefix(STORE)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|base| base.split_at_checked(HASH_LENGTH))
            .is_some_and(|(hash, rest)| {
                hash.chars().all(|c| HASH.contains(c))
                    && rest.strip_prefix('-').is_some_and(is_name)
            });
        if valid {
            Ok(StorePath(text.to_owned()))
        } else {
            Err(Error::NotInStore(PathBuf::from(text)))
        }
    }
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= LONGEST_NAME
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-._?=".contains(c))
}

impl std::fmt::Display for StorePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_the_store_are_paths() {
        let hash = "nhsxmhkvwmncasv5wl2d304b3rd0inf5";
        let good = format!("/nix/store/{hash}-hello-1.0");
        let path = StorePath::try_from(&*good).unwrap();
        assert_eq!((path.as_str(), path.name()), (&*good, "hello-1.0"));
        let below = Path::new(&good).join("bin/hello");
        assert_eq!(StorePath::containing(&below).unwrap(), path);
        for bad in [
            "",
            "/nix/store",
            "/nix/store/x",
            &format!("/nix/store/{hash}"),
            &format!("/nix/store/{hash}-"),
            &format!("/nix/store/{hash}-.."),
            &format!("/nix/store/{hash}-a/b"),
            &format!("/nix/store/{hash}-a b"),
            &format!("/nix/store/{}-a", hash.replace('n', "e")),
            &format!("/gnu/store/{hash}-a"),
        ] {
            assert!(StorePath::try_from(bad).is_err(), "{bad}");
        }
        for outside in ["/etc", "/nix/store", "/nix/store/../etc"] {
            assert!(StorePath::containing(Path::new(outside)).is_err());
        }
    }
}
