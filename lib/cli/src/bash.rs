//! Completion for bash, which splits words at colons (COMP_WORDBREAKS, bash(1)), so that
//! `debian:12` arrives as three words and only the last piece may be replaced.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;

use clap_complete::engine::complete;
use clap_complete::env::{Bash as Plain, EnvCompleter};

/// clap's adapter with colons glued back.
pub(crate) struct Bash;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        Plain.name()
    }

    fn is(&self, name: &str) -> bool {
        Plain.is(name)
    }

    fn write_registration(
        &self,
        var: &str,
        name: &str,
        bin: &str,
        completer: &str,
        buf: &mut dyn Write,
    ) -> io::Result<()> {
        Plain.write_registration(var, name, bin, completer, buf)
    }

    fn write_complete(
        &self,
        cmd: &mut clap::Command,
        args: Vec<OsString>,
        current_dir: Option<&Path>,
        buf: &mut dyn Write,
    ) -> io::Result<()> {
        let index = variable("_CLAP_COMPLETE_INDEX")
            .and_then(|i| i.parse().ok())
            .unwrap_or_default();
        let separator = variable("_CLAP_IFS").unwrap_or_else(|| "\n".into());
        let (words, index) = glue(&args, index);
        let typed = words
            .get(index)
            .map(|word| word.to_string_lossy().into_owned())
            .unwrap_or_default();
        let there = typed.rfind(':').map_or("", |colon| &typed[..=colon]);
        let candidates: Vec<String> = complete(cmd, words, index, current_dir)?
            .iter()
            .map(|candidate| candidate.get_value().to_string_lossy())
            .map(|value| value.strip_prefix(there).unwrap_or(&value).to_owned())
            .collect();
        write!(buf, "{}", candidates.join(&separator))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Joins what bash split at colons; returns the words and which of them `index` points into.
fn glue(split: &[OsString], index: usize) -> (Vec<OsString>, usize) {
    let colon = OsStr::new(":");
    let mut words: Vec<OsString> = Vec::new();
    let mut glued_index = index;
    for (at, piece) in split.iter().enumerate() {
        let continues = piece == colon || (at > 0 && split[at - 1] == colon);
        match words.last_mut() {
            Some(word) if continues && at > 1 => word.push(piece),
            _ => words.push(piece.clone()),
        }
        if at == index {
            glued_index = words.len() - 1;
        }
    }
    (words, glued_index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_around_colons_are_one_word() {
        let split = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for (pieces, index, words, glued) in [
            (
                &["b", "show", "x", ":", "la"][..],
                4,
                &["b", "show", "x:la"][..],
                2,
            ),
            (
                &["b", "show", "h", ":", "5000/x", ":", "1", "y"],
                7,
                &["b", "show", "h:5000/x:1", "y"],
                3,
            ),
            (&["b", "show", "x"], 2, &["b", "show", "x"], 2),
            (&["b", ""], 1, &["b", ""], 1),
        ] {
            assert_eq!(
                glue(&split(pieces), index),
                (split(words), glued),
                "{pieces:?}"
            );
        }
    }
}
