//! From `main` to an exit status.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};
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
    let parsed = C::try_parse_from(&arguments).or_else(|error| {
        let loose = with_dashes(&C::command(), &arguments);
        loose.map_or(Err(error), C::try_parse_from)
    });
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // The same once more, as a terminal of this width shows it.
            let error = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    let again = flowing(C::command()).try_get_matches_from(&arguments);
                    again.err().unwrap_or(error)
                }
                _ => error,
            };
            // Fails only when the terminal is gone.
            let _ = error.print();
            if error.kind() == ErrorKind::UnknownArgument
                && let Some(verb) = verb_with_command(&C::command(), &arguments)
            {
                let program = C::command().get_name().to_owned();
                eprintln!(
                    "hint: {program} {verb} … -- COMMAND   (what runs in the VM comes behind --)"
                );
            }
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

/// What was typed with the `--` that stands before a guest's command, where it was left out (`exec VM ls -l`, as other
/// tools have it): before the first word for which there is no place. Only for verbs whose VM is named.
fn with_dashes(command: &Command, arguments: &[OsString]) -> Option<Vec<OsString>> {
    let verb = verb_with_command(command, arguments)?;
    let mut places = command.find_subcommand(verb)?.get_positionals();
    places.next().filter(|place| place.get_id() == "vm")?;
    let misplaced = (2..arguments.len()).find(|at| {
        let parsed = command.clone().try_get_matches_from(&arguments[..=*at]);
        parsed.is_err_and(|error| error.kind() == ErrorKind::UnknownArgument)
    })?;
    let (before, after) = arguments.split_at(misplaced);
    let is_option = after[0].as_encoded_bytes().starts_with(b"-");
    (!is_option).then(|| [before, &["--".into()], after].concat())
}

/// The verb, if a guest's command can follow it behind `--`, and there is none.
fn verb_with_command<'a>(command: &'a Command, arguments: &[OsString]) -> Option<&'a str> {
    let words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let verb = words
        .clone()
        .find_map(|word| command.find_subcommand(word))?;
    let has_command = verb.get_positionals().any(|place| place.is_last_set());
    (has_command && !arguments.iter().any(|word| word == "--")).then(|| verb.get_name())
}

/// What follows the help is broken into lines for its source; clap breaks paragraphs for the terminal, and only adds breaks.
fn flowing(command: Command) -> Command {
    let text = command.get_after_help().map(|text| flow(&text.to_string()));
    let command = match text {
        Some(text) => command.after_help(text),
        None => command,
    };
    command.mut_subcommands(flowing)
}

/// Joins the lines of each paragraph; what is indented stays as it is.
fn flow(text: &str) -> String {
    let mut flowing = String::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let plain = !line.is_empty() && !line.starts_with(' ');
        if number > 0 {
            flowing.push(if plain && inside { ' ' } else { '\n' });
        }
        flowing += line;
        inside = plain;
    }
    flowing
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction};

    #[test]
    fn a_command_of_a_guest_needs_no_dashes() {
        let words = |id| Arg::new(id).num_args(0..).last(true);
        let exec = Command::new("exec")
            .arg(Arg::new("user").short('u'))
            .arg(Arg::new("tty").short('t').action(ArgAction::SetTrue))
            .arg(Arg::new("vm"))
            .arg(words("command"));
        let run = Command::new("run")
            .arg(Arg::new("image"))
            .arg(words("command"));
        let command = Command::new("x").subcommands([exec, run]);
        let loose = |line: &str| {
            let typed: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let words = with_dashes(&command, &typed)?;
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            Some(words.join(" "))
        };
        for (line, meant) in [
            ("x exec dev ls -l", "x exec dev -- ls -l"),
            ("x exec -u ls ls ls -u x", "x exec -u ls ls -- ls -u x"),
            ("x exec dev -t bash", "x exec dev -t -- bash"),
        ] {
            assert_eq!(loose(line).as_deref(), Some(meant));
        }
        for line in [
            "x exec dev -l",
            "x exec dev",
            "x exec -- ls",
            "x run a b",
            "x fly a b",
        ] {
            assert_eq!(loose(line), None, "{line}");
        }
    }

    #[test]
    fn paragraphs_flow_and_examples_stay() {
        assert_eq!(
            flow("One\ntwo.\n\nExamples:\n  a\n  b\n\nThe\nend."),
            "One two.\n\nExamples:\n  a\n  b\n\nThe end."
        );
        let help = |width| {
            let inner = Command::new("inner").after_help("a bb ccc\ndddd ee f");
            let mut command = flowing(Command::new("x").subcommand(inner)).term_width(width);
            let error = command.try_get_matches_from_mut(["x", "inner", "--help"]);
            error.unwrap_err().to_string()
        };
        assert!(help(80).contains("\na bb ccc dddd ee f\n"), "{}", help(80));
        assert!(help(12).contains("\na bb ccc\ndddd ee f\n"), "{}", help(12));
    }
}
