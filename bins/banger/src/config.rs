//! `banger config`.

use std::io::{self, IsTerminal, Write};

use lib_cli::{Failure, printable};
use lib_config::{Config, Environment, Setting};
use lib_model::SCHEMA;

use crate::cli::ShowArgs;

/// A setting as a record.
#[derive(serde::Serialize)]
struct Record<'a> {
    kind: &'static str,
    schema: u32,
    #[serde(flatten)]
    setting: &'a Setting,
}

/// Shows every setting: a file that gives the same for people, a record each for programs.
pub(crate) fn show(args: &ShowArgs) -> Result<(), Failure> {
    let config = Config::load(&Environment::process())?;
    let people = !args.json && io::stdout().is_terminal() || args.toml;
    let text = if people {
        table(&config.list(), args.origin)
    } else {
        records(&config.list())?
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::io("write to standard output", error))
}

fn records(settings: &[Setting]) -> Result<String, Failure> {
    let mut text = String::new();
    for setting in settings {
        let record = Record {
            kind: "setting",
            schema: SCHEMA,
            setting,
        };
        text += &serde_json::to_string(&record)
            .map_err(|error| Failure::io("write a record", error.into()))?;
        text.push('\n');
    }
    Ok(text)
}

/// As a file has it; what nobody set is a comment.
fn table(settings: &[Setting], origin: bool) -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in settings {
        let (name, word) = setting.key.split_once('.').unwrap_or(("", &setting.key));
        if name != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            text += &format!("{gap}[{name}]\n");
            section = name;
        }
        let word = match word.split_once('.') {
            Some((map, host)) => format!("{map}.\"{host}\""),
            None => word.to_owned(),
        };
        let line = match &setting.value {
            Some(value) => format!("{word} = {value}"),
            None => format!("# {word} is not set"),
        };
        text += &printable(&line);
        if let Some(place) = setting.origin.as_ref().filter(|_| origin) {
            text += &printable(&format!("   # {place}"));
        }
        text.push('\n');
    }
    text
}
