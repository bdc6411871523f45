//! Credentials from the files of podman and docker (containers-auth.json(5)), and from the helpers
//! that they name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use super::{RegistryOptions, helper};
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

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// User name and password.
    Password(String, String),
    /// Exchanged for a token by the token service.
    IdentityToken(String),
    /// Shown as it is.
    RegistryToken(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Credentials for a repository: of each file its helper for the registry, its entries, then its
/// helper for all. Files that are not there hold none.
///
/// # Errors
/// A file that cannot be read or does not parse; [`Error::CredentialHelper`].
pub(super) fn find(
    host: &str,
    repository: &str,
    options: &RegistryOptions,
) -> Result<Option<Credentials>, Error> {
    for path in &options.credential_files {
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
        let ask = |name: &str| helper::get(name, server(host), options);
        if let Some(found) = in_file(&text, path, host, repository, &ask)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

type Ask<'a> = dyn Fn(&str) -> Result<Option<Credentials>, Error> + 'a;

fn in_file(
    text: &str,
    path: &Path,
    host: &str,
    repository: &str,
    ask: &Ask<'_>,
) -> Result<Option<Credentials>, Error> {
    let what = path.to_string_lossy();
    // An empty file is what `touch` and some tools make of one.
    if text.trim().is_empty() {
        return Ok(None);
    }
    let file: File = serde_json::from_str(text).map_err(|error| Error::malformed(&what, error))?;
    let keys = keys(host, repository);
    if let Some(name) = keys.iter().find_map(|key| file.cred_helpers.get(key))
        && let Some(found) = ask(name)?
    {
        return Ok(Some(found));
    }
    for key in keys {
        if let Some(entry) = file.auths.get(&key)
            && let Some(found) = of_entry(entry, &key, &what)?
        {
            return Ok(Some(found));
        }
    }
    match file.creds_store.as_deref() {
        Some(name) if !name.is_empty() => ask(name),
        _ => Ok(None),
    }
}

fn of_entry(entry: &Entry, key: &str, what: &str) -> Result<Option<Credentials>, Error> {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    if let Some(token) = given(&entry.identitytoken) {
        return Ok(Some(Credentials::IdentityToken(token)));
    }
    if let Some(token) = given(&entry.registrytoken) {
        return Ok(Some(Credentials::RegistryToken(token)));
    }
    let Some(auth) = given(&entry.auth) else {
        return Ok(None);
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(auth.trim())
        .map_err(|_| Error::malformed(what, format!("`auth` of {key} is not base64")))?;
    let pair = String::from_utf8(bytes).ok();
    match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((user, password)) => Ok(Some(Credentials::Password(
            user.to_owned(),
            password.trim_end_matches('\0').to_owned(),
        ))),
        None => Err(Error::malformed(
            what,
            format!("`auth` of {key} is not user:password"),
        )),
    }
}

/// What helpers know a registry by.
fn server(host: &str) -> String {
    match host {
        "docker.io" => format!("https://index.{host}/v1/"),
        host => host.to_owned(),
    }
}

/// The keys a repository may have in a file, the most specific one first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = Some(format!("{registry}/{repository}"));
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

    fn none(_: &str) -> Result<Option<Credentials>, Error> {
        Ok(None)
    }

    fn look(text: &str, host: &str, repository: &str) -> Result<Option<Credentials>, Error> {
        in_file(text, Path::new("auth.json"), host, repository, &none)
    }

    fn encode(pair: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(pair)
    }

    fn pair(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password(user.to_owned(), password.to_owned()))
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let text = format!(
            r#"{{"auths":{{"r.example":{{"auth":"{}"}},"r.example/team":{{"auth":"{}"}},
            "https://index.{}/v1/":{{"auth":"{}"}},"empty.example":{{}},
            "id.example":{{"auth":"{0}","identitytoken":"t"}},"reg.example":{{"registrytoken":"u"}}}},
            "credsStore":"x"}}"#,
            encode("a:b"),
            encode("c:d:e"),
            "docker.io",
            encode("hub:pw"),
        );
        for (host, repository, expected) in [
            ("r.example", "team/app", pair("c", "d:e")),
            ("r.example", "teams/app", pair("a", "b")),
            ("docker.io", "library/alpine", pair("hub", "pw")),
            ("empty.example", "x", None),
            ("other.example", "x", None),
            (
                "id.example",
                "x",
                Some(Credentials::IdentityToken("t".into())),
            ),
            (
                "reg.example",
                "x",
                Some(Credentials::RegistryToken("u".into())),
            ),
        ] {
            assert!(
                look(&text, host, repository).unwrap() == expected,
                "{host}/{repository}"
            );
        }
        assert!(look(" \n", "r.example", "x").unwrap().is_none());
    }

    #[test]
    fn helpers_for_one_registry_come_first_and_for_all_come_last() {
        let text = format!(
            r#"{{"auths":{{"both.example":{{"auth":"{}"}}}},
            "credHelpers":{{"own.example":"one","both.example":"none"}},"credsStore":"all"}}"#,
            encode("a:b")
        );
        let ask =
            |name: &str| Ok((name != "none").then(|| Credentials::IdentityToken(name.into())));
        for (host, expected) in [
            (
                "own.example",
                Some(Credentials::IdentityToken("one".into())),
            ),
            ("both.example", pair("a", "b")),
            (
                "other.example",
                Some(Credentials::IdentityToken("all".into())),
            ),
        ] {
            let found = in_file(&text, Path::new("f"), host, "x", &ask).unwrap();
            assert!(found == expected, "{host}");
        }
    }

    #[test]
    fn damaged_files_are_named() {
        for text in [
            "{",
            r#"{"auths":{"r.example":{"auth":"%%"}}}"#,
            r#"{"auths":{"r.example":{"auth":"YQ=="}}}"#,
        ] {
            let error = look(text, "r.example", "x").err().unwrap().to_string();
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
        assert_eq!(
            files(&[
                ("XDG_CONFIG_HOME", "/c"),
                ("DOCKER_CONFIG", "/d"),
                ("HOME", "/h")
            ]),
            ["/c/containers/auth.json", "/d/config.json"].map(PathBuf::from)
        );
        assert!(files(&[]).is_empty());
    }
}
