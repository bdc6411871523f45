//! From `main` to an exit status.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use clap_complete::env::{Elvish, Fish, Powershell, Shells, Zsh};
use lib_model::Exit;

use crate::Failure;
use crate::bash::Bash;

/// Serves shell completion, parses the command line, runs the command, prints its failure.
///
/// `usage_status` gives the status of a wrong command line: 2, or 125 for commands that pass a
/// guest's status through.
pub fn run<C: Parser + CommandFactory>(
    usage_status: impl FnOnce(&[OsString]) -> u8,
    command: impl FnOnce(C) -> Result<u8, Failure>,
) -> ExitCode {
    CompleteEnv::with_factory(C::command)
        .shells(Shells(&[&Bash, &Elvish, &Fish, &Powershell, &Zsh]))
        .complete();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed = match C::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Fails only when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                usage_status(&arguments)
            } else {
                Exit::Done.into()
            });
        }
    };
    match command(parsed) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.print(std::io::stderr());
            ExitCode::from(failure.status())
        }
    }
}
