//! `banger`: runs `banger-<noun>` from its own directory, or from `PATH`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

mod cli;

fn main() -> ExitCode {
    lib_cli::run(|_| 2, |cli: cli::Cli| run(cli.command))
}

fn run(command: cli::Command) -> Result<u8, lib_cli::Failure> {
    let (noun, arguments) = match command {
        cli::Command::Image { arguments } => ("image", arguments),
        cli::Command::Vm { arguments } => ("vm", arguments),
    };
    Err(exec(noun, &arguments))
}

/// Replaces this process; returns only when that failed.
fn exec(noun: &str, arguments: &[OsString]) -> lib_cli::Failure {
    let name = format!("banger-{noun}");
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(&name)))
        .filter(|path| path.is_file());
    let program = beside.unwrap_or_else(|| PathBuf::from(&name));
    let error = Command::new(&program).args(arguments).exec();
    lib_cli::Failure::new(
        lib_model::Exit::Failed,
        format!("cannot run {}: {error}", program.display()),
    )
    .hint(format!(
        "{name} belongs into the directory of `banger`, or on PATH"
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::cli::Cli::command().debug_assert();
    }
}
