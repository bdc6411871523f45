//! User names and passwords from the files of podman and docker (containers-auth.json(5)).
//!
//! Only what the files themselves hold; credential helpers are not run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use lib_model::Reference;
use serde::Deserialize;

use crate::Error;

/// The files that podman, skopeo and docker would read, in their order.
pub fn credential_files(variable: impl Fn(&'static str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(only) = path("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let home = path("HOME");
    let mut files = Vec::new();
    files.extend(path("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")));
    let config = path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|h| h.join(".config")));
    files.extend(config.map(|d| d.join("containers/auth.json")));
    let docker = path("DOCKER_CONFIG").or_else(|| home.map(|h| h.join(".docker")));
    files.extend(docker.map(|d| d.join("config.json")));
    files
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

/// User name and password for a repository; files that are not there hold none.
///
/// # Errors
/// A file that cannot be read or does not parse.
pub(super) fn find(
    files: &[PathBuf],
    reference: &Reference,
) -> Result<Option<(String, String)>, Error> {
    for path in files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(error) => return Err(Error::io("read the credentials in", path)(error)),
        };
        if let Some(found) = parse(&text, path, reference)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn parse(
    text: &str,
    path: &Path,
    reference: &Reference,
) -> Result<Option<(String, String)>, Error> {
    let what = path.to_string_lossy();
    let file: File = serde_json::from_str(text).map_err(|error| Error::malformed(&what, error))?;
    for key in keys(reference) {
        let Some(auth) = file.auths.get(&key).and_then(|entry| entry.auth.as_deref()) else {
            continue;
        };
        if auth.is_empty() {
            continue;
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(auth.trim())
            .map_err(|_| Error::malformed(&what, format!("`auth` of {key} is not base64")))?;
        let pair = String::from_utf8(bytes).ok();
        return match pair.as_deref().and_then(|pair| pair.split_once(':')) {
            Some((user, password)) => Ok(Some((
                user.to_owned(),
                password.trim_end_matches('\0').to_owned(),
            ))),
            None => Err(Error::malformed(
                &what,
                format!("`auth` of {key} is not user:password"),
            )),
        };
    }
    Ok(None)
}

/// The keys a repository may have in a file, the most specific one first.
fn keys(reference: &Reference) -> Vec<String> {
    let registry = reference.registry();
    let mut keys = Vec::new();
    let mut path = Some(format!("{registry}/{}", reference.repository()));
    while let Some(key) = path {
        path = key.rsplit_once('/').map(|(parent, _)| parent.to_owned());
        keys.push(key);
    }
    keys.push(format!("https://{registry}"));
    keys.push(format!("http://{registry}"));
    if registry == "docker.io" {
        // What `docker login` without a registry writes.
        let index = format!("index.{registry}");
        keys.push(format!("https://{index}/v1/"));
        keys.push(index);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_entry_counts() {
        let encode = |pair: &str| base64::engine::general_purpose::STANDARD.encode(pair);
        let text = format!(
            r#"{{"auths":{{"r.example":{{"auth":"{}"}},"r.example/team":{{"auth":"{}"}},
            "https://index.{}/v1/":{{"auth":"{}"}},"empty.example":{{}}}},"credsStore":"x"}}"#,
            encode("a:b"),
            encode("c:d:e"),
            "docker.io",
            encode("hub:pw"),
        );
        let look = |reference: &str| {
            let reference = Reference::try_from(reference).unwrap();
            parse(&text, Path::new("f"), &reference).unwrap()
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(look("r.example/team/app"), pair("c", "d:e"));
        assert_eq!(look("r.example/teams/app"), pair("a", "b"));
        assert_eq!(look("alpine"), pair("hub", "pw"));
        assert_eq!(look("empty.example/x"), None);
        assert_eq!(look("other.example/x"), None);
    }

    #[test]
    fn damaged_files_are_named() {
        let reference = Reference::try_from("r.example/x").unwrap();
        for text in [
            "{",
            r#"{"auths":{"r.example":{"auth":"%%"}}}"#,
            r#"{"auths":{"r.example":{"auth":"YQ=="}}}"#,
        ] {
            let error = parse(text, Path::new("auth.json"), &reference)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("auth.json is malformed"), "{error}");
        }
    }

    #[test]
    fn the_files_of_podman_and_docker_in_their_order() {
        let files = |set: &[(&str, &str)]| {
            credential_files(|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.into())
            })
        };
        assert_eq!(
            files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]),
            [
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json"
            ]
            .map(PathBuf::from)
        );
        assert_eq!(
            files(&[("REGISTRY_AUTH_FILE", "/f"), ("HOME", "/h")]),
            [PathBuf::from("/f")]
        );
        assert!(files(&[]).is_empty());
    }
}
