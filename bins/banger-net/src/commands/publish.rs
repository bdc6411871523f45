//! `banger-net publish`: a port is published by the VM's own monitor, with its owner's rights, so that
//! nobody can redirect a port that another user's service has.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lib_cli::Failure;
use lib_model::Exit;

/// Becomes `banger-vm publish`.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let Err(failure) = replace(arguments);
    Err(failure)
}

fn replace(arguments: &[OsString]) -> Result<Infallible, Failure> {
    let beside = std::env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent);
    let program = beside
        .map(|directory| directory.join("banger-vm"))
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("banger-vm"));
    let error = Command::new(&program).arg("publish").args(arguments).exec();
    let message = format!("cannot run {}: {error}", program.display());
    Err(Failure::new(Exit::Failed, message)
        .hint("banger-vm belongs into the directory of `banger-net`, or on PATH"))
}
