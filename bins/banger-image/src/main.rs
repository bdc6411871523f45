//! `banger-image`: pulls and imports images and kernels, lists and deletes them.

mod cli;
mod commands;

use std::process::ExitCode;

use cli::{CacheCommand, Cli, Command, KernelCommand};
use lib_cli::{Failure, Session};
use lib_model::Exit;

fn main() -> ExitCode {
    lib_cli::run(
        |_| Exit::Usage.into(),
        |cli: Cli| {
            let mut session = match &cli.command {
                Command::Pull(_)
                | Command::Import(_)
                | Command::Kernel(KernelCommand::Import(_)) => Session::making_images(&cli.global)?,
                _ => Session::new(&cli.global)?,
            };
            let outcome = dispatch(&mut session, &cli.command);
            // What was done before a failure is said too.
            session.output.finish()?;
            outcome.map(|()| Exit::Done.into())
        },
    )
}

fn dispatch(session: &mut Session, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Pull(args) => commands::pull::run(session, args),
        Command::Import(args) => commands::import::run(session, args),
        Command::Tag(args) => commands::tag::run(session, args),
        Command::Untag(args) => commands::tag::untag(session, args),
        Command::List => commands::list::run(session),
        Command::Show(args) => commands::show::run(session, args),
        Command::Delete(args) => commands::delete::run(session, args),
        Command::Verify(args) => commands::verify::run(session, args),
        Command::Export(args) => commands::export::run(session, args),
        Command::Gc(args) => commands::cache::gc(session, args),
        Command::Cache(CacheCommand::List) => commands::cache::list(session),
        Command::Cache(CacheCommand::Prune(args)) => commands::cache::prune(session, args),
        Command::Kernel(KernelCommand::Import(args)) => commands::kernel::import(session, args),
        Command::Kernel(KernelCommand::List) => commands::kernel::list(session),
        Command::Kernel(KernelCommand::Show(args)) => commands::kernel::show(session, args),
        Command::Kernel(KernelCommand::Delete(args)) => commands::kernel::delete(session, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        // Links of the documentation mean nothing to who reads the help.
        assert!(!Cli::command().render_long_help().to_string().contains("[`"));
    }

    #[test]
    fn the_manual_and_the_completions_are_those_of_the_tree() {
        lib_generated::keep(Cli::command());
    }
}
