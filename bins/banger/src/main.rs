//! `banger`: runs `banger-<noun>` from its own directory, or from `PATH`; shows settings.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

mod cli;
mod config;
mod system;

fn main() -> ExitCode {
    if let Some(failure) = delegate_completion() {
        failure.print(std::io::stderr());
        return ExitCode::from(failure.status());
    }
    lib_cli::run(|_| 2, |cli: cli::Cli| run(cli.command))
}

fn run(command: cli::Command) -> Result<u8, lib_cli::Failure> {
    let (noun, arguments) = match command {
        cli::Command::Image { arguments } => ("image", arguments),
        cli::Command::Vm { arguments } => ("vm", arguments),
        cli::Command::Net { arguments } => ("net", arguments),
        cli::Command::Ws { arguments } => ("ws", arguments),
        cli::Command::Config(cli::ConfigCommand::Show(args)) => {
            return config::show(&args).map(|()| lib_model::Exit::Done.into());
        }
        cli::Command::System(command) => {
            return system::run(&command).map(|()| lib_model::Exit::Done.into());
        }
    };
    Err(exec(noun, &arguments))
}

/// Behind `banger vm`, the words to complete are those of `banger-vm`: it is asked instead, with one
/// word less in front. Returns only when there is nothing to delegate, or it failed.
fn delegate_completion() -> Option<lib_cli::Failure> {
    std::env::var_os("COMPLETE")?;
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [separator, _banger, noun, _first, ..] = &words[..] else {
        return None;
    };
    let noun = noun
        .to_str()
        .filter(|noun| matches!(*noun, "image" | "net" | "vm" | "ws"))?;
    if separator != "--" {
        return None;
    }
    let mut command = Command::new(program(noun));
    command
        .arg("--")
        .arg(format!("banger-{noun}"))
        .args(&words[3..]);
    if let Some(index) = std::env::var("_CLAP_COMPLETE_INDEX")
        .ok()
        .and_then(|i| i.parse::<usize>().ok())
    {
        if index < 2 {
            return None;
        }
        command.env("_CLAP_COMPLETE_INDEX", (index - 1).to_string());
    }
    Some(failed(noun, &command.exec()))
}

/// Replaces this process; returns only when that failed.
fn exec(noun: &str, arguments: &[OsString]) -> lib_cli::Failure {
    failed(noun, &Command::new(program(noun)).args(arguments).exec())
}

/// Beside this executable, else on `PATH`.
fn program(noun: &str) -> PathBuf {
    let name = format!("banger-{noun}");
    std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(&name)))
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

fn failed(noun: &str, error: &std::io::Error) -> lib_cli::Failure {
    let message = format!("cannot run {}: {error}", program(noun).display());
    lib_cli::Failure::new(lib_model::Exit::Failed, message).hint(format!(
        "banger-{noun} belongs into the directory of `banger`, or on PATH"
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::cli::Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_and_the_completions_are_those_of_the_tree() {
        lib_generated::keep(super::cli::Cli::command());
    }
}
