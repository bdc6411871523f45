//! From `main` to an exit status.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use clap_complete::env::{Elvish, Fish, Powershell, Shells, Zsh};
use lib_model::Exit;

use crate::Failure;
use crate::bash::Bash;

const SHELLS: Shells<'static> = Shells(&[&Bash, &Elvish, &Fish, &Powershell, &Zsh]);

/// For each shell, the script that makes it ask an executable on PATH for completions.
///
/// # Errors
/// None that memory does not give.
pub fn registrations(name: &str) -> io::Result<Vec<(&'static str, String)>> {
    let mut scripts = Vec::new();
    for shell in SHELLS.iter() {
        let mut script = Vec::new();
        shell.write_registration("COMPLETE", name, name, name, &mut script)?;
        let mut script = String::from_utf8_lossy(&script).into_owned();
        if shell.is("zsh") {
            // As a file that zsh loads when it first needs it, it is that first completion, too
            // (zshcompsys(1), autoloaded files).
            let function = name.replace('-', "_");
            script += &format!(
                "\n[ \"$funcstack[1]\" = \"_{name}\" ] && _clap_dynamic_completer_{function} \"$@\"\n"
            );
        }
        scripts.push((shell.name(), script));
    }
    Ok(scripts)
}

/// Serves shell completion, parses the command line, runs the command, prints its failure.
///
/// `usage_status` gives the status of a wrong command line: 2, or 125 for commands that pass a
/// guest's status through.
pub fn run<C: Parser + CommandFactory>(
    usage_status: impl FnOnce(&[OsString]) -> u8,
    command: impl FnOnce(C) -> Result<u8, Failure>,
) -> ExitCode {
    CompleteEnv::with_factory(C::command)
        .shells(SHELLS)
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
