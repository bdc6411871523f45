//! `op`.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

#[derive(Debug, Args)]
pub(crate) struct OpArgs {
    #[command(subcommand)]
    pub(crate) verb: OpVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OpVerb {
    /// List operations; those that ended are kept for a day
    #[command(visible_alias = "ls")]
    List,
    /// Show how far operations are
    Status(OperationsArgs),
    /// Wait until operations have ended, and end with their status
    Wait(OperationsArgs),
    /// End operations and remove what they made
    Cancel(OperationsArgs),
}

/// Operations by id, or from standard input.
#[derive(Debug, Args)]
pub(crate) struct OperationsArgs {
    /// Ids, or names of the VMs being made; - or nothing reads records from standard input
    #[arg(value_name = "OPERATION", add = ArgValueCompleter::new(lib_cli::operations))]
    pub(crate) operations: Vec<String>,
}
