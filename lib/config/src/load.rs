//! From files and variables to settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::keys::KEYS;
use crate::layer::{Layer, merge};
use crate::{ConfigError, Settings};

/// No configuration is longer, in bytes; `/dev/zero` is.
const LONGEST: u64 = 1 << 20;

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// By a variable of this name.
    Variable(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => f.write_str(name),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

type Variable<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Where settings are looked for.
pub struct Environment<'a> {
    variable: Box<Variable<'a>>,
}

impl Environment<'static> {
    /// The environment of this process.
    pub fn process() -> Self {
        Environment::new(|name| std::env::var_os(name))
    }
}

impl<'a> Environment<'a> {
    /// With variables of the caller's, for tests.
    pub fn new(variable: impl Fn(&str) -> Option<OsString> + 'a) -> Self {
        Environment {
            variable: Box::new(variable),
        }
    }

    /// The files, the weakest first, and whether they were named and so must be there.
    ///
    /// `BANGER_CONFIG` (paths between colons) replaces them all; empty, there are none.
    fn files(&self) -> (Vec<PathBuf>, bool) {
        if let Some(named) = (self.variable)("BANGER_CONFIG") {
            let named = std::env::split_paths(&named);
            return (
                named.filter(|path| !path.as_os_str().is_empty()).collect(),
                true,
            );
        }
        let path = |name| {
            (self.variable)(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let user = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
        let mut files = vec![PathBuf::from("/etc/banger/config.toml")];
        files.extend(user.map(|directory| directory.join("banger/config.toml")));
        (files, false)
    }
}

/// The settings in force, and where each was made.
#[derive(Debug, Clone, Default)]
pub struct Config {
    settings: Settings,
    written: Table,
    origins: BTreeMap<String, Origin>,
}

/// One setting, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Such as `vm.cpus`; the entries of `registry.mirrors` are settings of their own.
    pub key: String,
    /// As written; none when nobody set it.
    pub value: Option<Value>,
    /// Where it was made.
    pub origin: Option<Origin>,
}

impl Config {
    /// Reads the files that there are, then the variables.
    ///
    /// # Errors
    /// See [`ConfigError`]; a file that is not there is none, unless `BANGER_CONFIG` names it.
    pub fn load(environment: &Environment<'_>) -> Result<Self, ConfigError> {
        let (files, named) = environment.files();
        let mut config = Config::default();
        for path in files {
            if let Some(text) = read(&path, named)? {
                config.put(Layer::parse(&text, &path)?);
            }
        }
        if let Some(layer) = Layer::from_variables(&environment.variable)? {
            config.put(layer);
        }
        if config.written.is_empty() {
            return Ok(config);
        }
        // Every layer was checked, and joining keeps shapes: an error would be a defect.
        config.settings =
            Settings::deserialize(config.written.clone()).map_err(|error| ConfigError::Read {
                path: PathBuf::from("of all sources together"),
                source: io::Error::other(error.message().to_owned()),
            })?;
        Ok(config)
    }

    fn put(&mut self, layer: Layer) {
        merge(&mut self.written, layer.table);
        self.origins.extend(layer.origins);
    }

    /// Where a setting was made, by key.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Every setting, those that nobody made too.
    pub fn list(&self) -> Vec<Setting> {
        let mut list = Vec::new();
        for (key, _) in KEYS {
            let (section, word) = key.split_once('.').unwrap_or(("", key));
            let value = self
                .written
                .get(section)
                .and_then(|section| section.get(word));
            if let Some(Value::Table(map)) = value {
                for (name, value) in map {
                    let key = format!("{key}.{name}");
                    list.push(Setting {
                        value: Some(value.clone()),
                        origin: self.origins.get(&key).cloned(),
                        key,
                    });
                }
                continue;
            }
            list.push(Setting {
                key: (*key).to_owned(),
                value: value.cloned(),
                origin: self.origins.get(*key).cloned(),
            });
        }
        list
    }

    /// The settings that somebody made, as a file that gives the same.
    pub fn to_toml(&self) -> String {
        self.written.to_string()
    }
}

impl std::ops::Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// The text of a file that is there.
fn read(path: &Path, must: bool) -> Result<Option<String>, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error)
            if !must
                && matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(failed(io::Error::other(format!(
            "it is longer than {LONGEST} bytes"
        ))));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_model::{ByteSize, Diagnose};

    struct Place {
        base: tempfile::TempDir,
        variables: Vec<(&'static str, OsString)>,
    }

    impl Place {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            Place {
                base,
                variables: Vec::new(),
            }
        }

        fn file(&mut self, name: &str, text: &str) -> PathBuf {
            let path = self.base.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
            self.variables.push((name, value.into()));
        }

        fn load(&self) -> Result<Config, ConfigError> {
            Config::load(&Environment::new(|name| {
                let found = self.variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| value.clone())
            }))
        }

        /// Loads one file of this text.
        fn text(text: &str) -> Result<Config, ConfigError> {
            let mut place = Place::new();
            let file = place.file("c.toml", text);
            place.set("BANGER_CONFIG", file);
            place.load()
        }
    }

    #[test]
    fn nothing_is_set_without_files_and_variables() {
        let mut place = Place::new();
        let home = place.base.path().join("no/home");
        place.set("HOME", home);
        let config = place.load().unwrap();
        assert_eq!(*config, Settings::default());
        assert_eq!(config.to_toml(), "");
        assert!(config.list().iter().all(|setting| setting.value.is_none()));
        assert_eq!(config.list().len(), KEYS.len());
    }

    #[test]
    fn later_sources_win_and_maps_are_joined() {
        let mut place = Place::new();
        let system = place.file(
            "system.toml",
            "[vm]\ncpus = 1\nmemory = \"1G\"\n\n[registry.mirrors]\n\"a.example\" = [\"m.example\"]\n",
        );
        let user = place.file(
            "user.toml",
            "vm.cpus = 2\nregistry.mirrors.\"b.example\" = [\"http://n.example:1/x\"]\n",
        );
        let both = std::env::join_paths([&system, &user]).unwrap();
        place.set("BANGER_CONFIG", both);
        place.set("BANGER_VM_MEMORY", "2G");
        place.set("BANGER_REGISTRY_PLAIN_HTTP", "a.example, b.example:80");
        place.set(
            "BANGER_REGISTRY_MIRRORS",
            "c.example=o.example,c.example=p.example",
        );
        let config = place.load().unwrap();
        assert_eq!(config.vm.cpus, Some(2));
        assert_eq!(config.vm.memory, Some(ByteSize(2 << 30)));
        assert_eq!(config.registry.plain_http, ["a.example", "b.example:80"]);
        let mirrors: Vec<(&str, usize)> = config
            .registry
            .mirrors
            .iter()
            .map(|(host, mirrors)| (host.as_str(), mirrors.len()))
            .collect();
        assert_eq!(
            mirrors,
            [("a.example", 1), ("b.example", 1), ("c.example", 2)]
        );
        for (key, origin) in [
            ("vm.cpus", format!("{}:1", user.display())),
            ("vm.memory", "BANGER_VM_MEMORY".to_owned()),
            (
                "registry.mirrors.a.example",
                format!("{}:6", system.display()),
            ),
            (
                "registry.mirrors.b.example",
                format!("{}:2", user.display()),
            ),
            (
                "registry.mirrors.c.example",
                "BANGER_REGISTRY_MIRRORS".to_owned(),
            ),
        ] {
            assert_eq!(config.origin(key).unwrap().to_string(), origin, "{key}");
        }
        let again = Place::text(&config.to_toml()).unwrap();
        assert_eq!(*again, *config);
    }

    #[test]
    fn the_users_file_is_found_by_xdg_and_home() {
        let mut place = Place::new();
        place.file("config/banger/config.toml", "vm.cpus = 3");
        let directory = place.base.path().join("config");
        place.set("XDG_CONFIG_HOME", directory);
        assert_eq!(place.load().unwrap().vm.cpus, Some(3));
        let mut place = Place::new();
        place.file(".config/banger/config.toml", "vm.cpus = 4");
        let directory = place.base.path().to_owned();
        place.set("HOME", directory);
        assert_eq!(place.load().unwrap().vm.cpus, Some(4));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_the_nearest_key() {
        for (text, place, expected, hint) in [
            (
                "[vm]\n\ncpu = 1\n",
                3,
                "there is no setting `vm.cpu`",
                Some("did you mean `vm.cpus`?"),
            ),
            (
                "[registy]\n",
                1,
                "there is no setting `registy`",
                Some("did you mean `registry`?"),
            ),
            ("[vm]\nmemory = \"lots\"", 2, "`lots` is not a size", None),
            ("[vm]\nmemory = [\n1]", 2, "expected a size", None),
            ("[vm]\ncpus = 0", 2, "the least is 1", None),
            ("[vm]\ncpus = \"two\"", 2, "`vm.cpus`: invalid type", None),
            (
                "[vm]\nnetwork = \"bridged\"",
                2,
                "unknown variant `bridged`",
                None,
            ),
            ("vm = 1", 1, "this is a section; write [vm]", None),
            (
                "[registry]\nca-files = [\"x.pem\"]",
                2,
                "`x.pem` is no absolute path",
                None,
            ),
            (
                "[registry]\nplain-http = [\"a b\"]",
                2,
                "not a registry",
                None,
            ),
            (
                "[registry.mirrors]\n\"a.example\" = [\"ftp://x\"]",
                2,
                "not a mirror",
                None,
            ),
            ("[registry.mirrors]\nword = []", 2, "not a registry", None),
            (
                "[default]\nimage = \"UPPER\"",
                2,
                "not an image reference",
                None,
            ),
            ("[default]\nkernel = \"../x\"", 2, "kernel name", None),
            ("x = ", 1, "", None),
            ("[vm]\ncpus = 1\ncpus = 2", 3, "duplicate key", None),
        ] {
            let error = Place::text(text).unwrap_err();
            let said = error.to_string();
            assert!(
                said.contains(&format!("c.toml:{place}: ")),
                "{text:?}: {said}"
            );
            assert!(said.contains(expected), "{text:?}: {said}");
            assert_eq!(error.hint().as_deref(), hint, "{said}");
        }
    }

    #[test]
    fn a_variable_that_does_not_fit_is_named() {
        for (name, value, expected) in [
            (
                "BANGER_VM_CPUS",
                "many",
                "BANGER_VM_CPUS: `vm.cpus`: `many` is not a number",
            ),
            ("BANGER_VM_CPUS", "-1", "BANGER_VM_CPUS: `vm.cpus`: "),
            (
                "BANGER_VM_ACCEL",
                "hvf",
                "BANGER_VM_ACCEL: `vm.accel`: unknown variant",
            ),
            (
                "BANGER_REGISTRY_MIRRORS",
                "x",
                "is not of the form name=value",
            ),
        ] {
            let mut place = Place::new();
            place.set("BANGER_CONFIG", "");
            place.set(name, value);
            let said = place.load().unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_be_short() {
        let mut place = Place::new();
        place.set("BANGER_CONFIG", "/no/such/file.toml");
        let error = place.load().unwrap_err();
        assert!(matches!(&error, ConfigError::Read { path, .. } if path.ends_with("file.toml")));
        let mut place = Place::new();
        place.set("BANGER_CONFIG", "/dev/zero");
        assert!(matches!(place.load(), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn the_keys_are_those_of_the_settings() {
        let full = Place::text(
            "[default]\nimage = \"host\"\nkernel = \"k\"\n[vm]\ncpus = 1\nmemory = 1\ndisk = \"1T\"\n\
             network = \"none\"\naccel = \"tcg\"\nproxy = \"http://p:1\"\n[registry]\nplain-http = [\"a.b\"]\nca-files = [\"/a\"]\n\
             credential-files = [\"/b\"]\nmirrors = { \"c.d\" = [\"e.f\"] }\n[limits]\ndownload = \"1G\"\n\
             unpacked = \"2G\"\nentries = 3\nratio = 4\n",
        )
        .unwrap();
        let value = serde_json::to_value(&*full).unwrap();
        let mut keys = Vec::new();
        for (section, inner) in value.as_object().unwrap() {
            for (key, value) in inner.as_object().unwrap() {
                assert!(!value.is_null(), "{section}.{key} is not in this test");
                keys.push(format!("{section}.{key}"));
            }
        }
        let mut known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        known.sort_unstable();
        assert_eq!(keys, known);
    }
}
