//! `banger-ws prepare`.

use std::path::{Path, PathBuf};

use lib_cli::{Failure, Kind, Session, selectors, stdin_is_data};
use lib_ws::{Mode, Prepare};

use super::Rig;
use crate::cli::{ModeArg, PrepareArgs};
use crate::guest;

pub(crate) fn run(session: &mut Session, args: PrepareArgs) -> Result<(), Failure> {
    let (vm, source) = targets(&args.words, stdin_is_data(), |word| {
        Path::new(word).is_dir()
    })?;
    let request = request(args, source);
    let vms: Vec<String> = vm.into_iter().collect();
    let mut rig = Rig::new(session)?;
    lib_cli::for_each(selectors(&vms, Kind::Vm)?, |name| {
        let vm = rig.store.vm(name)?;
        let record = {
            let note = |text: &str| session.note(text);
            lib_ws::prepare(&mut rig.env(session, &note)?, &vm, &request)?
        };
        if record.git {
            let agent = guest::of(session, &vm);
            let user = request.user.as_deref();
            lib_ws::introduce(&agent, &record.source, user, &|text| session.note(text));
        }
        session.output.emit(record)
    })
}

/// The VM, and the repository. One word is the VM, unless it is a directory and the VM comes as a record.
fn targets(
    words: &[String],
    records: bool,
    is_directory: impl Fn(&str) -> bool,
) -> Result<(Option<String>, PathBuf), Failure> {
    let here = || PathBuf::from(".");
    match words {
        [] => Ok((None, here())),
        [word] if word == "-" => Ok((None, here())),
        [word] => {
            let path = word.contains('/') || word.starts_with('.');
            match path || (records && is_directory(word)) {
                true if !records => Err(Failure::usage(format!(
                    "`{word}` is a repository, and no VM was named"
                ))
                .hint(format!("banger-ws prepare VM {word}"))),
                true => Ok((None, word.into())),
                false => Ok((Some(word.clone()), here())),
            }
        }
        [vm, source, ..] => Ok((Some(vm.clone()), source.into())),
    }
}

fn request(args: PrepareArgs, source: PathBuf) -> Prepare {
    Prepare {
        source,
        path: args.path,
        mode: match args.mode {
            ModeArg::Shallow => Mode::Shallow,
            ModeArg::Full => Mode::Full,
            ModeArg::WorktreeOnly => Mode::WorktreeOnly,
        },
        branch: args.branch,
        from: args.from,
        include_ignored: args.include_ignored,
        readonly: args.readonly,
        user: args.user,
        force: args.force,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_the_vm_unless_the_vm_comes_by_a_pipe() {
        let targets = |words: &[&str], records| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            targets(&words, records, |word| word == "src")
                .map(|(vm, source)| (vm, source.display().to_string()))
                .map_err(|failure| failure.status())
        };
        let vm = |name: &str| Some(name.to_owned());
        for (words, records, expected) in [
            (&[][..], true, Ok((None, ".".into()))),
            (&["dev"], false, Ok((vm("dev"), ".".into()))),
            (&["dev", "src"], false, Ok((vm("dev"), "src".into()))),
            (&["src"], false, Ok((vm("src"), ".".into()))),
            (&["src"], true, Ok((None, "src".into()))),
            (&["./x"], true, Ok((None, "./x".into()))),
            (&["./x"], false, Err(2)),
            (&["dev"], true, Ok((vm("dev"), ".".into()))),
        ] {
            assert_eq!(targets(words, records), expected, "{words:?} {records}");
        }
    }
}
