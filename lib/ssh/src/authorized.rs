//! Keys that the user lets in beside the store's own: literally, or from files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ssh_key::{Algorithm, PublicKey};

use crate::SshError;

/// No file of one person's keys is longer, in bytes.
const LONGEST: u64 = 1 << 20;
/// All keys together: they are part of what a guest boots with.
const MOST: usize = 1000;

/// The keys of `vm.authorized-keys`: each entry a key (`ssh-ed25519 AAAA… comment`) or the absolute path
/// of a file of such lines. `note` hears of keys that VMs cannot check.
///
/// # Errors
/// [`SshError::Authorized`]: no key, options before a key, a file that cannot be read.
pub fn authorized_keys(
    entries: &[String],
    home: Option<&Path>,
    note: &dyn Fn(&str),
) -> Result<Vec<String>, SshError> {
    let mut keys = Vec::new();
    for entry in entries {
        match path(entry, home) {
            Some(path) => from_file(&path, note, &mut keys)?,
            None => one(entry, entry, note, &mut keys)?,
        }
    }
    if keys.len() > MOST {
        return Err(SshError::Authorized {
            entry: format!("{} keys", keys.len()),
            reason: format!("are more than {MOST}"),
        });
    }
    Ok(keys)
}

fn path(entry: &str, home: Option<&Path>) -> Option<PathBuf> {
    if let Some(rest) = entry.strip_prefix("~/") {
        return Some(home?.join(rest));
    }
    entry.starts_with('/').then(|| PathBuf::from(entry))
}

fn from_file(path: &Path, note: &dyn Fn(&str), keys: &mut Vec<String>) -> Result<(), SshError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        .map_err(|error| SshError::Authorized {
            entry: path.display().to_string(),
            reason: format!("cannot be read: {error}"),
        })?;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{}:{}", path.display(), number + 1);
        one(line, &place, note, keys)?;
    }
    Ok(())
}

fn one(
    line: &str,
    place: &str,
    note: &dyn Fn(&str),
    keys: &mut Vec<String>,
) -> Result<(), SshError> {
    let key = PublicKey::from_openssh(line).map_err(|error| SshError::Authorized {
        entry: place.to_owned(),
        reason: format!(
            "is no public key ({error}); a key is `ssh-ed25519 AAAA…`, without options before it, a path is absolute"
        ),
    })?;
    match key.algorithm() {
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => {
            let text = key.to_openssh().map_err(|error| SshError::Authorized {
                entry: place.to_owned(),
                reason: format!("cannot be written: {error}"),
            })?;
            keys.push(text);
        }
        other => note(&format!(
            "vm.authorized-keys: {place} is a key of kind {other}, which VMs do not check; left out"
        )),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHgw8rDV3gQsgRgYaJXwJbJV6fGDVSu1u7IzMDEyMzQ1 a b";

    fn keys(entries: &[&str]) -> Result<Vec<String>, SshError> {
        let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        authorized_keys(&entries, None, &|_| {})
    }

    #[test]
    fn keys_come_from_the_setting_and_from_files() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("keys");
        std::fs::write(&file, format!("# mine\n\n  {KEY}\r\n")).unwrap();
        let found = keys(&[KEY, file.to_str().unwrap()]).unwrap();
        assert_eq!(found, [KEY, KEY]);
        let home = authorized_keys(&["~/keys".to_owned()], Some(base.path()), &|_| {});
        assert_eq!(home.unwrap(), [KEY]);
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_place() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("keys");
        for wrong in [
            "command=\"x\" ssh-ed25519 AAAA",
            "ssh-ed25519",
            "ssh-ed25519 !!!!",
            "keys",
            "",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIHgw8rDV3gQsgRgYaJXwJbJV6fGDVSu1u7IzMDEyMzQ1",
        ] {
            assert!(
                matches!(keys(&[wrong]), Err(SshError::Authorized { .. })),
                "{wrong}"
            );
        }
        std::fs::write(&file, format!("{KEY}\nfrom=\"*\" {KEY}\n")).unwrap();
        let error = keys(&[file.to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("keys:2"), "{error}");
        assert!(keys(&["/no/such/file"]).is_err());
    }

    #[test]
    fn kinds_that_guests_do_not_check_are_left_out_loudly() {
        // An RSA key of three numbers that are too small to be one, but well formed.
        let rsa =
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAIQDf1oO0pJ4mZr0FvK6xQJk5y0f1uQm3nq7Jm1bq0x3v8Q==";
        let said = RefCell::new(String::new());
        let found = authorized_keys(&[rsa.to_owned()], None, &|text| {
            said.borrow_mut().push_str(text);
        });
        assert_eq!(found.unwrap(), [] as [String; 0]);
        assert!(said.borrow().contains("ssh-rsa"), "{}", said.borrow());
    }
}
