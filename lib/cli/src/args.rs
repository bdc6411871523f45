//! Flags that every command takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lib_model::Filesystem;

use crate::Failure;

/// Flags that every command takes, anywhere on the line.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print one JSON record per line
    #[arg(long, global = true)]
    pub json: bool,

    /// Choose the output: table for people, json for programs, ids for scripts
    #[arg(long, global = true, value_enum)]
    pub format: Vec<Choice>,

    /// Print no progress and no notes
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// Say more about what is done
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Keep images, kernels and VMs in this directory
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub store: Option<PathBuf>,
}

/// What `--format` chooses: an output or, where an image is made, its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Aligned columns
    Table,
    /// One JSON record per line
    Json,
    /// One id per line
    Ids,
    /// A writable file system, for commands that make images
    #[value(hide = true)]
    Ext4,
    /// A compressed file system that can only be read, for commands that make images
    #[value(hide = true)]
    Erofs,
}

impl Global {
    /// The output that was asked for.
    ///
    /// # Errors
    /// More than one.
    pub fn output(&self) -> Result<Option<Format>, Failure> {
        let json = self.json.then_some(Format::Json);
        let chosen = self.format.iter().filter_map(|choice| match choice {
            Choice::Table => Some(Format::Table),
            Choice::Json => Some(Format::Json),
            Choice::Ids => Some(Format::Ids),
            Choice::Ext4 | Choice::Erofs => None,
        });
        only(json.into_iter().chain(chosen), "output")
    }

    /// The file system that was asked for.
    ///
    /// # Errors
    /// More than one.
    pub fn filesystem(&self) -> Result<Option<Filesystem>, Failure> {
        let chosen = self.format.iter().filter_map(|choice| match choice {
            Choice::Ext4 => Some(Filesystem::Ext4),
            Choice::Erofs => Some(Filesystem::Erofs),
            Choice::Table | Choice::Json | Choice::Ids => None,
        });
        only(chosen, "file system")
    }
}

fn only<T>(mut chosen: impl Iterator<Item = T>, what: &str) -> Result<Option<T>, Failure> {
    let first = chosen.next();
    match chosen.next() {
        Some(_) => Err(Failure::usage(format!(
            "--format and --json choose more than one {what}"
        ))),
        None => Ok(first),
    }
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// One JSON record per line.
    Json,
    /// One id per line.
    Ids,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_output_and_one_file_system_can_be_chosen() {
        let chosen = |json, format: &[Choice]| {
            let global = Global {
                json,
                format: format.to_vec(),
                ..Global::default()
            };
            (global.output().ok(), global.filesystem().ok())
        };
        use Choice::{Erofs, Ids, Json};
        let erofs = Some(Some(Filesystem::Erofs));
        assert_eq!(chosen(false, &[]), (Some(None), Some(None)));
        assert_eq!(chosen(true, &[Erofs]), (Some(Some(Format::Json)), erofs));
        assert_eq!(
            chosen(false, &[Erofs, Ids]),
            (Some(Some(Format::Ids)), erofs)
        );
        assert_eq!(chosen(true, &[Json]), (None, Some(None)));
        assert_eq!(chosen(false, &[Erofs, Erofs]), (Some(None), None));
    }
}
