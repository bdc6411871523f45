//! A VM as a file describes it: the keys are the long flags of `create`, so there is one list of them.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, Parser};
use lib_cli::Failure;
use lib_model::{Exit, VmName, nearest};
use toml::{Table, Value};

use crate::cli::MachineArgs;

/// What a file says.
#[derive(Debug)]
pub(crate) struct Description {
    /// Of the file's name: `dev.toml` is about `dev`.
    pub(crate) name: VmName,
    /// As `create` takes it; the configured default when missing.
    pub(crate) image: Option<String>,
    /// Instead of the image's own.
    pub(crate) command: Vec<String>,
    /// Everything else.
    pub(crate) machine: MachineArgs,
}

/// The flags that are keys.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Keys {
    #[command(flatten)]
    machine: MachineArgs,
}

/// Keys that are no flags.
const OTHERS: [&str; 2] = ["image", "command"];

impl Description {
    /// Reads a file.
    ///
    /// # Errors
    /// A name that is no DNS label, a file that cannot be read or is no TOML, keys and values that mean nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let name = stem
            .filter(|_| path.extension().is_some_and(|ending| ending == "toml"))
            .ok_or_else(|| Failure::usage(format!("{shown} is not called NAME.toml")))?;
        let name = VmName::try_from(name)
            .map_err(|error| Failure::usage(format!("{shown} does not name a VM: {error}")))?;
        let text = fs::read_to_string(path).map_err(|error| {
            let exit = match error.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            };
            Failure::new(exit, format!("cannot read {shown}: {error}"))
        })?;
        parse(&text, name).map_err(|wrong| {
            let failure = Failure::usage(format!("{shown}: {}", wrong.what));
            failure.hint(wrong.hint)
        })
    }
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    what: String,
    hint: String,
}

fn wrong(what: impl Into<String>) -> Wrong {
    Wrong {
        what: what.into(),
        hint: "keys are `image`, `command`, and the long flags of `banger-vm create`".to_owned(),
    }
}

fn parse(text: &str, name: VmName) -> Result<Description, Wrong> {
    let table: Table = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let mut image = None;
    let mut command = Vec::new();
    let mut flags = Vec::new();
    for (key, value) in &table {
        match key.as_str() {
            "image" => image = Some(text_of(key, value)?),
            "command" => command = texts_of(key, value)?,
            _ => {
                known(key)?;
                flags.extend(flag(key, value)?);
            }
        }
    }
    let keys = Keys::try_parse_from(flags).map_err(|error| {
        let said = error.to_string();
        let line = said.lines().next().unwrap_or_default();
        wrong(line.strip_prefix("error: ").unwrap_or(line))
    })?;
    Ok(Description {
        name,
        image,
        command,
        machine: keys.machine,
    })
}

/// Whether there is a flag of this name.
fn known(key: &str) -> Result<(), Wrong> {
    let command = Keys::command();
    let mut keys: Vec<&str> = command
        .get_arguments()
        .filter_map(|a| a.get_long())
        .collect();
    keys.extend(OTHERS);
    if keys.contains(&key) {
        return Ok(());
    }
    let mut wrong = wrong(format!("there is no key `{key}`"));
    if let Some(nearest) = nearest(key, keys) {
        wrong.hint = format!("did you mean `{nearest}`?");
    }
    Err(wrong)
}

/// As it would be typed; several for a list.
fn flag(key: &str, value: &Value) -> Result<Vec<String>, Wrong> {
    Ok(match value {
        Value::Boolean(true) => vec![format!("--{key}")],
        Value::Boolean(false) => Vec::new(),
        Value::Integer(number) => vec![format!("--{key}={number}")],
        Value::String(text) => vec![format!("--{key}={text}")],
        list => {
            let texts = texts_of(key, list)?;
            texts.iter().map(|text| format!("--{key}={text}")).collect()
        }
    })
}

fn text_of(key: &str, value: &Value) -> Result<String, Wrong> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        _ => Err(wrong(format!("`{key}` wants a text"))),
    }
}

fn texts_of(key: &str, value: &Value) -> Result<Vec<String>, Wrong> {
    let Value::Array(list) = value else {
        return Err(wrong(format!("`{key}` wants a list of texts")));
    };
    list.iter().map(|value| text_of(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> Result<Description, Wrong> {
        parse(text, VmName::try_from("dev").unwrap())
    }

    #[test]
    fn keys_are_the_flags_of_create() {
        let text = "image = \"debian:12\"\ncommand = [\"sleep\", \"1\"]\ncpus = 2\nmemory = \"2G\"\n\
                    publish = [\"8080:80\"]\nnat = true\nenv-proxy = false\n";
        let dev = described(text).unwrap();
        assert_eq!(dev.image.as_deref(), Some("debian:12"));
        assert_eq!(dev.command, ["sleep", "1"]);
        assert_eq!(dev.machine.cpus, Some(2));
        assert_eq!(dev.machine.publish.len(), 1);
        assert!(dev.machine.nat && !dev.machine.env_proxy);
        assert_eq!(described("").unwrap().image, None);
    }

    #[test]
    fn what_means_nothing_is_said_with_the_nearest_key() {
        for (text, what, hint) in [
            ("cpu = 2", "no key `cpu`", "`cpus`"),
            ("imag = \"x\"", "no key `imag`", "`image`"),
            ("colour = 2", "no key `colour`", "long flags"),
            ("cpus = \"many\"", "'--cpus <N>'", "long flags"),
            ("image = 1", "`image` wants a text", "long flags"),
            ("publish = [1]", "`publish` wants a text", "long flags"),
            ("a = {b = 1}", "no key `a`", "long flags"),
            ("x", "TOML", "long flags"),
        ] {
            let wrong = described(text).unwrap_err();
            assert!(wrong.what.contains(what), "{text}: {wrong:?}");
            assert!(wrong.hint.contains(hint), "{text}: {wrong:?}");
        }
    }
}
