//! The command line of `banger`; doc comments are the help.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

/// Images and microVMs, Nix- and OCI-first
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "`banger vm list` is `banger-vm list`."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Images and kernels (banger-image)
    #[command(disable_help_flag = true)]
    Image {
        /// Arguments of banger-image
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Virtual machines (banger-vm)
    #[command(disable_help_flag = true)]
    Vm {
        /// Arguments of banger-vm
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}
