//! `banger-vm exec`: a command in a running VM. Its output is raw and its status is ours.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Duration;

use banger_wire::monitor::file;
use lib_cli::{Failure, Kind, Session, selectors};
use lib_guest::{Exec, Guest, Io, RawTerminal, Signals, Sink, TerminalSize, terminal_size};
use lib_model::Exit;
use lib_store::VmRow;
use lib_vm::{Life, VmError};

use crate::OWN_FAILURE;
use crate::cli::{ExecArgs, ProcessArgs};
use crate::workspace;

/// What the command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// `/dev/null`: our own standard input carries records, or the user said so.
    Null,
    /// Our own standard input.
    Ours,
}

impl Input {
    /// Our own, unless the user said otherwise or it has records.
    ///
    /// # Errors
    /// The user asks for it, and it has records.
    pub(crate) fn of(process: &ProcessArgs, records: bool) -> Result<Self, Failure> {
        if records && process.interactive {
            let message = "standard input has records, so the command cannot have it";
            return Err(Failure::usage(message).hint("name it, or leave out --interactive"));
        }
        Ok(if records || process.no_stdin {
            Input::Null
        } else {
            Input::Ours
        })
    }
}

/// Runs the command in the named VM, or in each of the VMs on standard input; the status is the
/// first one that is not 0.
pub(crate) fn run(session: &mut Session, args: ExecArgs) -> Result<u8, Failure> {
    run_inner(session, args).map_err(|failure| match failure.status() {
        status if status >= OWN_FAILURE => failure,
        _ => failure.with_status(OWN_FAILURE),
    })
}

fn run_inner(session: &mut Session, args: ExecArgs) -> Result<u8, Failure> {
    let named: Vec<String> = args.vm.iter().cloned().collect();
    let from_records = named.is_empty() || named == ["-"];
    let input = Input::of(&args.process, from_records)?;
    let selectors = selectors(&named, Kind::Vm)?;
    // An exec must be quick, so it sweeps nothing.
    let mut store = match args.auto_prepare {
        true => session.store()?,
        false => session.store_to_read()?,
    };
    let mut locks = session.locks();
    let choice = workspace::Choice {
        none: args.no_workspace,
        prepare: args.auto_prepare,
    };
    let mut status = 0;
    lib_cli::for_each(selectors, |name| {
        let vm = store.vm(name)?;
        let interactive = args.command.is_empty();
        let mut process = args.process.clone();
        let mut argv = args.command.clone();
        let found = workspace::of(session, &mut store, &mut locks, &vm, &process, choice)?;
        if let Some(found) = &found {
            workspace::enter(session, &vm, found, &mut process, &args.tools, &mut argv)?;
        }
        let one = in_guest(session, &vm, &process, argv, interactive, input);
        let one = one.map_err(|failure| match &found {
            Some(found) if gone(&failure, &found.path) => failure.hint(format!(
                "banger-ws prepare {}   (or: banger-vm exec --no-workspace {} …)",
                vm.name, vm.name
            )),
            _ => failure,
        })?;
        if status == 0 {
            status = one;
        }
        Ok(())
    })?;
    Ok(status)
}

/// Runs a command in a guest and moves its input and output; `interactive` asks for a terminal when
/// ours is one.
///
/// # Errors
/// Failures of banger itself, with the status that says so; the guest command's own are not errors.
pub(crate) fn in_guest(
    session: &Session,
    vm: &VmRow,
    process: &ProcessArgs,
    argv: Vec<String>,
    interactive: bool,
    input: Input,
) -> Result<u8, Failure> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let on_terminal = stdin.is_terminal() && stdout.is_terminal();
    let tty = input == Input::Ours && (process.tty || (interactive && on_terminal));
    if let Some(word) = process
        .env
        .iter()
        .find(|word| word.is_empty() || word.starts_with('='))
    {
        return Err(
            Failure::usage(format!("`{word}` has no variable name")).hint("--env NAME=VALUE")
        );
    }
    let mut env = process
        .env
        .iter()
        .filter_map(|word| variable(word))
        .collect::<Vec<_>>();
    let mut terminal = None;
    if tty {
        let fallback = TerminalSize {
            rows: 24,
            columns: 80,
        };
        terminal = Some(terminal_size(&stdin).unwrap_or(fallback));
        if let Some(kind) = variable("TERM").filter(|_| !env.iter().any(|(name, _)| name == "TERM"))
        {
            env.push(kind);
        }
    }
    let exec = Exec {
        argv,
        env,
        cwd: process.workdir.clone(),
        user: process.user.clone(),
        terminal,
        stdin: input == Input::Ours,
    };
    let mut signals = Signals::take(Some(stdin.as_fd()))
        .map_err(|error| Failure::io("take over the signals", error))?;
    let raw = (tty && stdin.is_terminal())
        .then(|| RawTerminal::enter(&stdin))
        .transpose()
        .map_err(|error| Failure::io("set the terminal to raw mode", error))?;
    let io = Io {
        stdin: (input == Input::Ours).then(|| stdin.as_fd()),
        stdout: Sink::Fd(stdout.as_fd()),
        stderr: Sink::Fd(stderr.as_fd()),
        control: Some(&mut signals),
        timeout: process.timeout.map(Duration::from_secs),
    };
    let guest = Guest::new(lib_vm::runtime(&session.context, vm).join(file::AGENT_SOCKET));
    let outcome = guest.exec(exec, io);
    drop(raw);
    match outcome {
        Ok(outcome) => Ok(outcome.status()),
        Err(error) => Err(failure(session, vm, error)),
    }
}

/// The directory that the command was to run in is not there any more.
fn gone(failure: &Failure, directory: &str) -> bool {
    let told = failure.parts().0.first();
    told.is_some_and(|told| told.ends_with(directory) && told.contains("directory in the guest"))
}

fn failure(session: &Session, vm: &VmRow, error: lib_guest::Error) -> Failure {
    if matches!(error, lib_guest::Error::Connect { .. })
        && lib_vm::life(&session.context, vm) == Life::Dead
    {
        return Failure::from(VmError::NotRunning {
            vm: vm.name.to_string(),
        })
        .with_status(OWN_FAILURE);
    }
    let status = error.status();
    let mut messages = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        messages.push_str(&format!(": {source}"));
    }
    let failure = Failure::new(Exit::Failed, messages).with_status(status);
    match error {
        lib_guest::Error::ConnectionLost => failure.hint(format!("banger-vm logs {}", vm.name)),
        lib_guest::Error::NoAnswer(_) => failure.hint(format!(
            "banger-vm logs {0}   (or: banger-vm kill {0})",
            vm.name
        )),
        _ => failure,
    }
}

/// `NAME=value` as given, `NAME` with the host's value; nothing when the host has none.
fn variable(word: &str) -> Option<(String, String)> {
    match word.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((word.to_owned(), std::env::var(word).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_taken_as_given_or_from_the_host() {
        assert_eq!(variable("A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(variable("BANGER_TEST_NO_SUCH_VARIABLE"), None);
        assert_eq!(variable("PATH").map(|(name, _)| name), Some("PATH".into()));
    }
}
