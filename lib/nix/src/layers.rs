//! The image descriptions of nix2container: a configuration, and layers of store paths (its types/types.go).
//!
//! The layers are not made: what is in them becomes the image, as a closure does.

use std::collections::BTreeSet;
use std::path::Path;

use lib_model::OciConfig;
use serde::Deserialize;

use crate::closure::only_needed;
use crate::{Content, Error, Nix, StorePath};

/// A parsed description.
#[derive(Debug, Clone)]
pub struct Layers {
    /// The description itself.
    pub path: StorePath,
    /// How to run the image.
    pub run: OciConfig,
    /// OCI architecture.
    pub architecture: String,
    /// What goes below `/nix/store`.
    objects: Vec<StorePath>,
    /// What goes elsewhere, and where to.
    copies: Vec<(StorePath, String)>,
}

#[derive(Deserialize)]
struct Document {
    version: u32,
    #[serde(rename = "image-config", default)]
    config: Config,
    #[serde(default)]
    layers: Option<Vec<Layer>>,
    #[serde(default)]
    arch: String,
}

/// Of the OCI image specification.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(default)]
    paths: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    options: Option<Options>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    rewrite: Rewrite,
    perms: Option<Vec<serde_json::Value>>,
    ignore_destination: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rewrite {
    regex: String,
    repl: String,
}

impl Layers {
    /// The description in `bytes`; none when it is something else.
    ///
    /// # Errors
    /// [`Error::Layers`] for what an image of ours cannot have.
    pub(crate) fn parse(path: &StorePath, bytes: &[u8]) -> Result<Option<Layers>, Error> {
        let refused = |reason: String| {
            Err(Error::Layers {
                path: path.clone(),
                reason,
            })
        };
        let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
            return Ok(None);
        };
        if document.version != 1 {
            return refused(format!("its version is {}", document.version));
        }
        let mut layers = Layers {
            path: path.clone(),
            run: document.config.into(),
            architecture: document.arch,
            objects: Vec::new(),
            copies: Vec::new(),
        };
        for (number, layer) in (1..).zip(document.layers.unwrap_or_default()) {
            let Some(entries) = layer.paths.filter(|entries| !entries.is_empty()) else {
                return refused(format!(
                    "layer {number} is not of store paths, but of another image (fromImage)"
                ));
            };
            for entry in entries {
                let object = StorePath::try_from(&*entry.path)?;
                let options = entry.options.unwrap_or_default();
                if options.perms.is_some_and(|perms| !perms.is_empty()) {
                    return refused(format!("it sets other permissions (perms) in {object}"));
                }
                if !options.ignore_destination.is_empty() {
                    return refused(format!("it leaves files of {object} out"));
                }
                match place(&options.rewrite, &object) {
                    Some(None) => layers.objects.push(object),
                    Some(Some(place)) => layers.copies.push((object, place)),
                    None => {
                        let regex = options.rewrite.regex;
                        return refused(format!("it renames files of {object} by `{regex}`"));
                    }
                }
            }
        }
        Ok(Some(layers))
    }

    /// What the image holds.
    ///
    /// # Errors
    /// As [`Nix::closure`].
    pub fn content(&self, nix: &Nix) -> Result<Content, Error> {
        let copied: BTreeSet<StorePath> =
            self.copies.iter().map(|(path, _)| path.clone()).collect();
        let all: Vec<StorePath> = self.objects.iter().chain(&copied).cloned().collect();
        let closure = match &all[..] {
            [] => Vec::new(),
            all => nix.closure(all)?,
        };
        let mut copies = Vec::new();
        for (path, place) in &self.copies {
            // The closure has what it was asked for.
            let info = closure.iter().find(|info| info.path == *path);
            copies.extend(info.map(|info| (info.clone(), place.clone())));
        }
        let wanted: BTreeSet<StorePath> = copied
            .into_iter()
            .filter(|path| !self.objects.contains(path))
            .collect();
        Ok(Content {
            top: self.path.clone(),
            paths: only_needed(closure, &wanted),
            copies,
            system: false,
        })
    }
}

/// `Some(None)`: where it is; `Some(Some(place))`: there instead; `None`: by a rule that is not understood.
fn place(rewrite: &Rewrite, object: &StorePath) -> Option<Option<String>> {
    if rewrite.regex.is_empty() {
        return Some(None);
    }
    if rewrite.regex.strip_prefix('^') != Some(object.as_str()) {
        return None;
    }
    let place = rewrite.repl.trim_matches('/');
    let plain = Path::new(place)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    (plain && !place.contains('$')).then(|| Some(place.to_owned()))
}

impl From<Config> for OciConfig {
    fn from(config: Config) -> OciConfig {
        OciConfig {
            env: config.env.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            ..OciConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/nhsxmhkvwmncasv5wl2d304b3rd0inf5-hello-1.0";

    fn parse(layers: &str) -> Result<Option<Layers>, Error> {
        let path = StorePath::try_from(A).unwrap();
        let text = format!(
            r#"{{"version":1,"image-config":{{"Cmd":["sh"],"Labels":{{"a":"b"}}}},"arch":"amd64","layers":{layers}}}"#
        );
        Layers::parse(&path, text.as_bytes())
    }

    #[test]
    fn paths_stay_or_go_to_the_root() {
        let text = format!(
            r#"[{{"digest":"sha256:0","paths":[{{"path":"{A}"}},
                {{"path":"{A}","options":{{"rewrite":{{"regex":"^{A}","repl":"/opt/"}},"perms":null}}}}]}}]"#
        );
        let layers = parse(&text).unwrap().unwrap();
        assert_eq!((layers.objects.len(), &*layers.copies[0].1), (1, "opt"));
        assert_eq!(
            (&*layers.architecture, &layers.run.cmd[..]),
            ("amd64", &["sh".to_owned()][..])
        );
        assert!(parse("null").unwrap().unwrap().objects.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let with = |options: &str| {
            parse(&format!(
                r#"[{{"paths":[{{"path":"{A}","options":{options}}}]}}]"#
            ))
        };
        for (layers, reason) in [
            (with(r#"{"perms":[{"regex":".*","mode":"0777"}]}"#), "perms"),
            (with(r#"{"rewrite":{"regex":"a.*b","repl":""}}"#), "`a.*b`"),
            (
                with(&format!(
                    r#"{{"rewrite":{{"regex":"^{A}","repl":"../x"}}}}"#
                )),
                "renames",
            ),
            (with(r#"{"ignoreDestination":"^/etc"}"#), "leaves files"),
            (parse(r#"[{"layer-path":"/nix/store/x"}]"#), "fromImage"),
        ] {
            let error = layers.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let path = StorePath::try_from(A).unwrap();
        assert!(Layers::parse(&path, b"{\"a\":1}").unwrap().is_none());
    }
}
