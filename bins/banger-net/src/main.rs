//! `banger-net`: the bridge network of VMs. Asks `banger-netd` for all that needs root.

mod cli;
mod commands;

use std::process::ExitCode;

use cli::{Cli, Command, DnsCommand};
use lib_cli::{Failure, Session};
use lib_model::Exit;

fn main() -> ExitCode {
    lib_cli::run(
        |_| Exit::Usage.into(),
        |cli: Cli| {
            let mut session = Session::new(&cli.global)?;
            let status = dispatch(&mut session, cli.command)?;
            session.output.finish()?;
            Ok(status)
        },
    )
}

fn dispatch(session: &mut Session, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Up => commands::up::run(session),
        Command::Down => commands::down::run(session),
        Command::Status => commands::status::run(session),
        Command::List => commands::list::run(session),
        Command::Nat(args) => commands::nat::run(session, &args),
        Command::Group(command) => commands::group::run(session, &command),
        Command::Publish { arguments } => commands::publish::run(&arguments),
        Command::Dns(DnsCommand::Serve(args)) => commands::dns::serve(session, &args),
        Command::Dns(DnsCommand::Query(args)) => return commands::dns::query(session, &args),
        Command::Dns(DnsCommand::List) => commands::dns::list(session),
        Command::Route(command) => commands::route::run(session, &command),
        Command::Gc(args) => commands::gc::run(session, &args),
        Command::Doctor { fix } => return commands::doctor::run(session, fix),
    }?;
    Ok(Exit::Done.into())
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
