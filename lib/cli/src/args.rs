//! Flags that every command takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Flags that every command takes, anywhere on the line.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print one JSON record per line
    #[arg(long, global = true, conflicts_with = "format")]
    pub json: bool,

    /// Choose the output: table for people, json for programs, ids for scripts
    #[arg(long, global = true, value_enum)]
    pub format: Option<Format>,

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

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// One JSON record per line.
    Json,
    /// One id per line.
    Ids,
}
