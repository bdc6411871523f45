//! `banger-vm`: makes, runs and ends microVMs.

mod cli;
mod commands;
mod console_lines;
mod described;
mod follow;
mod guest;
mod resolve;
mod sync;
mod target;
mod worker;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::{Cli, Command};
use lib_cli::{Failure, Session};
use lib_model::Exit;

/// Every failure of banger itself, for commands that pass a guest's status through.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    lib_cli::run(usage_status, |cli: Cli| {
        let mut session = Session::new(&cli.global)?;
        let status = dispatch(&mut session, cli.command)?;
        session.output.finish()?;
        Ok(status)
    })
}

fn dispatch(session: &mut Session, command: Command) -> Result<u8, Failure> {
    let done = Exit::Done.into();
    match command {
        Command::Create(args) => commands::create::run(session, args).map(|()| done),
        Command::Up(args) => commands::up::run(session, &args).map(|()| done),
        Command::Run(args) => commands::run::run(session, args),
        Command::Exec(args) => commands::exec::run(session, args),
        Command::Ssh(args) => commands::ssh::run(session, args),
        Command::SshProxy(args) => commands::ssh_proxy::run(session, &args).map(|()| done),
        Command::SshConfig(args) => commands::ssh_config::run(session, &args).map(|()| done),
        Command::SshKnownHosts(args) => {
            commands::ssh_config::known_hosts(session, &args).map(|()| done)
        }
        Command::Start(args) => commands::start::run(session, &args).map(|()| done),
        Command::Stop(args) => commands::stop::stop(session, &args).map(|()| done),
        Command::Restart(args) => commands::stop::restart(session, &args).map(|()| done),
        Command::Kill(args) => commands::stop::kill(session, &args).map(|()| done),
        Command::Delete(args) => commands::delete::run(session, &args).map(|()| done),
        Command::Set(args) => commands::set::run(session, &args).map(|()| done),
        Command::Reconcile(args) => commands::reconcile::run(session, &args).map(|()| done),
        Command::Op(args) => commands::operation::run(session, &args),
        Command::Volume(args) => commands::volume::run(session, &args).map(|()| done),
        Command::Worker(args) => worker::run(session, args).map(|()| done),
        Command::Prune => commands::prune::run(session).map(|()| done),
        Command::List(args) => commands::list::run(session, &args).map(|()| done),
        Command::Show(args) => commands::list::show(session, &args).map(|()| done),
        Command::Logs(args) => commands::logs::run(session, &args).map(|()| done),
        Command::Ports(args) => commands::ports::run(session, &args).map(|()| done),
        Command::Publish(args) => commands::publish::publish(session, &args).map(|()| done),
        Command::Unpublish(args) => commands::publish::unpublish(session, &args).map(|()| done),
        Command::Stats(args) => commands::stats::run(session, &args).map(|()| done),
        Command::Ping(args) => commands::ping::run(session, &args).map(|()| done),
        Command::Events(args) => commands::events::run(session, &args).map(|()| done),
        Command::Cp(args) => commands::cp::run(session, &args).map(|()| done),
        Command::Wait(args) => commands::wait::run(session, &args).map(|()| done),
    }
}

/// `run`, `exec` and `ssh` end with the guest's status, so a wrong command line must not look like one.
fn usage_status(arguments: &[OsString]) -> u8 {
    let verb = arguments
        .iter()
        .skip(1)
        .find(|a| !a.to_string_lossy().starts_with('-'));
    match verb.and_then(|v| v.to_str()) {
        Some("run" | "exec" | "ssh") => OWN_FAILURE,
        _ => Exit::Usage.into(),
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
