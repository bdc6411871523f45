//! One source of settings, checked on its own, so that an error names its place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::keys::{KEYS, Kind, Shape, kind, variable};
use crate::settings::registry;
use crate::{ConfigError, Origin, Settings};

/// Values as written, and where; the names of a map are keys of their own.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(crate) table: Table,
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl Layer {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`], [`ConfigError::Value`].
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let at = |span: Option<Range<usize>>| Origin::File {
            path: path.to_owned(),
            line: line_of(text, span.map_or(0, |span| span.start)),
        };
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            origin: at(error.span()),
            reason: error.message().to_owned(),
        };
        let document = DeTable::parse(text).map_err(syntax)?;
        let mut origins = BTreeMap::new();
        collect(document.get_ref(), "", &at, &mut origins)?;
        if let Err(error) = toml::from_str::<Settings>(text) {
            let origin = at(error.span());
            return Err(ConfigError::Value {
                key: key_at(&origins, &origin),
                origin,
                reason: error.message().to_owned(),
            });
        }
        let table = toml::from_str(text).map_err(syntax)?;
        Ok(Layer { table, origins })
    }

    /// Reads the variables; none when none is set.
    ///
    /// # Errors
    /// [`ConfigError::Value`], [`ConfigError::NotUtf8`].
    pub(crate) fn from_variables(
        get: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, ConfigError> {
        let mut layer = Layer::default();
        for (key, shape) in KEYS {
            let name = variable(key);
            let Some(text) = get(&name).filter(|text| !text.is_empty()) else {
                continue;
            };
            let Ok(text) = text.into_string() else {
                return Err(ConfigError::NotUtf8 { variable: name });
            };
            let origin = Origin::Variable(name);
            let failed = |reason: String| ConfigError::Value {
                origin: origin.clone(),
                key: (*key).to_owned(),
                reason,
            };
            let value = value(&text, *shape).map_err(failed)?;
            if let Value::Table(map) = &value {
                for name in map.keys() {
                    layer
                        .origins
                        .insert(format!("{key}.{name}"), origin.clone());
                }
            } else {
                layer.origins.insert((*key).to_owned(), origin.clone());
            }
            let (section, word) = key.split_once('.').unwrap_or(("", key));
            let mut one = Table::new();
            one.insert(word.to_owned(), value);
            let one = Table::from_iter([(section.to_owned(), Value::Table(one))]);
            if let Err(error) = Settings::deserialize(one.clone()) {
                return Err(failed(error.message().to_owned()));
            }
            merge(&mut layer.table, one);
        }
        Ok((!layer.table.is_empty()).then_some(layer))
    }
}

/// Puts `upper` over `lower`: tables are joined, everything else is replaced.
pub(crate) fn merge(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

fn value(text: &str, shape: Shape) -> Result<Value, String> {
    let words = || {
        text.split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
    };
    match shape {
        Shape::Text => Ok(Value::String(text.to_owned())),
        Shape::Integer => match text.trim().parse() {
            Ok(number) => Ok(Value::Integer(number)),
            Err(_) => Err(format!("`{text}` is not a number")),
        },
        Shape::List => Ok(Value::Array(
            words().map(|word| Value::String(word.to_owned())).collect(),
        )),
        Shape::Map => {
            let mut map = Table::new();
            for word in words() {
                let Some((name, word)) = word.split_once('=') else {
                    return Err(format!("`{word}` is not of the form name=value"));
                };
                let list = map
                    .entry(name.to_owned())
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(Value::String(word.to_owned()));
                }
            }
            Ok(Value::Table(map))
        }
    }
}

/// Checks every key and remembers its place.
fn collect(
    table: &DeTable<'_>,
    prefix: &str,
    at: &dyn Fn(Option<Range<usize>>) -> Origin,
    origins: &mut BTreeMap<String, Origin>,
) -> Result<(), ConfigError> {
    for (word, value) in table {
        let name = match prefix {
            "" => word.get_ref().to_string(),
            _ => format!("{prefix}.{}", word.get_ref()),
        };
        let origin = at(Some(word.span()));
        match (kind(&name), value.get_ref()) {
            (Kind::Unknown(nearest), _) => {
                return Err(ConfigError::UnknownKey {
                    origin,
                    key: name,
                    nearest,
                });
            }
            (Kind::Section, DeValue::Table(inner)) => collect(inner, &name, at, origins)?,
            (Kind::Section, _) => {
                return Err(ConfigError::Value {
                    origin,
                    reason: format!("this is a section; write [{name}]"),
                    key: name,
                });
            }
            (Kind::Key(Shape::Map), DeValue::Table(inner)) => {
                for (word, _) in inner {
                    let place = at(Some(word.span()));
                    // The parser would give the place of the whole table.
                    if let Err(reason) = registry(word.get_ref()) {
                        return Err(ConfigError::Value {
                            origin: place,
                            key: name,
                            reason,
                        });
                    }
                    origins.insert(format!("{name}.{}", word.get_ref()), place);
                }
            }
            (Kind::Key(_), _) => {
                origins.insert(name, origin);
            }
        }
    }
    Ok(())
}

/// The last key that begins at or before a place.
fn key_at(origins: &BTreeMap<String, Origin>, place: &Origin) -> String {
    let line = |origin: &Origin| match origin {
        Origin::File { line, .. } => *line,
        Origin::Variable(_) => 0,
    };
    origins
        .iter()
        .filter(|(_, origin)| line(origin) <= line(place))
        .max_by_key(|(_, origin)| line(origin))
        .map_or_else(String::new, |(key, _)| key.clone())
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.bytes().filter(|byte| *byte == b'\n').count() + 1
}
