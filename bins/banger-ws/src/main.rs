//! `banger-ws`: repositories go into VMs, reviewed patches come out.

mod cli;
mod commands;
mod guest;

use std::process::ExitCode;

use cli::{Cli, Command};
use lib_cli::{Failure, Session};
use lib_model::Exit;

fn main() -> ExitCode {
    lib_cli::run(
        |_| Exit::Usage.into(),
        |cli: Cli| {
            let mut session = Session::new(&cli.global)?;
            dispatch(&mut session, cli.command)?;
            session.output.finish()?;
            Ok(Exit::Done.into())
        },
    )
}

fn dispatch(session: &mut Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Prepare(args) => commands::prepare::run(session, args),
        Command::Export(args) => commands::export::run(session, args),
        Command::Diff(args) => commands::diff::run(session, &args),
        Command::Apply(args) => commands::apply::run(session, args),
        Command::Status(args) => commands::status::run(session, &args),
        Command::Watch(args) => commands::watch::run(session, &args),
        Command::SyncKeys(args) => commands::sync_keys::run(session, &args),
        Command::List(args) => commands::list::run(session, &args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_and_the_completions_are_those_of_the_tree() {
        lib_generated::keep(Cli::command());
    }
}
