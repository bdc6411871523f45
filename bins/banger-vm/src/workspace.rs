//! The workspace that a command runs in.

use std::path::{Path, PathBuf};

use lib_cli::{Failure, Session};
use lib_guest::Signals;
use lib_store::{Locks, Store, VmRow, WorkspaceRow};
use lib_vm::Interrupt;
use lib_ws::{Look, Tools};

use crate::cli::{ProcessArgs, ToolArgs};
use crate::guest;

/// What `exec` was told about workspaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// Not in a workspace.
    pub(crate) none: bool,
    /// Send what is new first.
    pub(crate) prepare: bool,
}

/// The workspace of a VM that a command runs in; with several, the one that was prepared last.
///
/// # Errors
/// When `--auto-prepare` was asked for and there is nothing to prepare, or it does not succeed.
pub(crate) fn of(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    vm: &VmRow,
    process: &ProcessArgs,
    choice: Choice,
) -> Result<Option<WorkspaceRow>, Failure> {
    if choice.none || (process.workdir.is_some() && !choice.prepare) {
        return Ok(None);
    }
    let found = match store.workspaces_of(&vm.id) {
        // The store of an older banger has no such table until somebody writes to it.
        Err(_) if !choice.prepare => Vec::new(),
        found => found?,
    };
    let found = found
        .into_iter()
        .filter(|found| found.prepared_ms.is_some());
    let Some(found) = found.max_by_key(|found| found.prepared_ms) else {
        return match choice.prepare {
            true => Err(Failure::usage(format!("{} has no workspace yet", vm.name))
                .hint(format!("banger-ws prepare {} DIR", vm.name))),
            false => Ok(None),
        };
    };
    let look = Look::begin(&found);
    if choice.prepare {
        let again = lib_ws::Prepare::again(&found);
        drop(look);
        prepare(session, store, locks, vm, &again, &Interrupt::never())?;
    } else if let Some(head) = look.moved() {
        let at = |commit: &str| commit.chars().take(12).collect::<String>();
        session.note(&format!(
            "{} is at {} now, the workspace was prepared from {}   (--auto-prepare, or banger-ws prepare)",
            found.source.display(),
            at(&head),
            found.spec.base.as_deref().map_or("no commit".into(), at)
        ));
    }
    Ok(Some(found).filter(|_| process.workdir.is_none()))
}

/// Sends a repository.
///
/// # Errors
/// As [`lib_ws::prepare`].
pub(crate) fn prepare(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    vm: &VmRow,
    request: &lib_ws::Prepare,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let mut env = lib_ws::Env {
        context: &session.context,
        store,
        locks,
        interrupt,
        progress: &*session.bars,
        note: &|text| session.note(text),
    };
    let record = lib_ws::prepare(&mut env, vm, request)?;
    if record.git {
        let (agent, user) = (guest::of(session, vm), request.user.as_deref());
        lib_ws::introduce(&agent, &record.source, user, &|text| session.note(text));
    }
    Ok(())
}

/// Makes a command run in a workspace, with the tools that it asks for.
///
/// # Errors
/// Tools that cannot be installed.
pub(crate) fn enter(
    session: &Session,
    vm: &VmRow,
    workspace: &WorkspaceRow,
    process: &mut ProcessArgs,
    tools: &ToolArgs,
    argv: &mut Vec<String>,
) -> Result<(), Failure> {
    process.workdir = Some(workspace.path.clone());
    if process.user.is_none() {
        process.user.clone_from(&workspace.spec.user);
    }
    if tools.no_bootstrap || !lib_ws::wants_tools(&workspace.source) {
        return Ok(());
    }
    let mut signals =
        Signals::take(None).map_err(|error| Failure::io("take over the signals", error))?;
    let agent = guest::of(session, vm);
    let tools = Tools {
        guest: &agent,
        user: process.user.as_deref(),
        directory: &workspace.path,
        state: &session.context.workspace(&vm.id, &workspace.id),
        control: Some(&mut signals),
    };
    match tools.install(&|text| session.note(text))? {
        // A login shell sets its own PATH; whoever wants mise in it has it there.
        Some(mise) if !argv.is_empty() => {
            let before = [mise, "exec".to_owned(), "--".to_owned()];
            argv.splice(0..0, before);
        }
        Some(_) => {}
        None => session.detail(&format!(
            "{} has no mise, so what the workspace asks of it was not installed",
            vm.name
        )),
    }
    Ok(())
}

/// Image and repository of `run`: a path has a slash, or is `.` or `..`; only the first word that begins
/// like one is no image, whose names have slashes, too.
///
/// # Errors
/// A second word that is no path.
pub(crate) fn words(
    image: Option<String>,
    directory: Option<PathBuf>,
    named: Option<PathBuf>,
) -> Result<(Option<String>, Option<PathBuf>), Failure> {
    if let Some(directory) = &directory {
        let shown = directory.display();
        let swapped = image.as_deref().filter(|image| begins_like_a_path(image));
        if !is_path(directory)
            && let Some(share) = swapped.filter(|word| word.contains(":/"))
        {
            return Err(Failure::usage(format!(
                "`{share}` is no image; -v is --verbose, and a directory of this machine is shown with --mount"
            ))
            .hint(format!("banger-vm run --mount {share} {shown} -- …")));
        }
        if !is_path(directory)
            && let Some(repository) = swapped
        {
            return Err(Failure::usage(format!(
                "the image comes first, and then the repository: {repository} is a path, `{shown}` is none"
            ))
            .hint(format!("banger-vm run {shown} {repository} -- …")));
        }
        if !is_path(directory) {
            return Err(Failure::usage(format!(
                "`{shown}` is no path: a command comes after --, a repository has a slash in it"
            ))
            .hint(format!(
                "banger-vm run {0} ./{shown} -- …   (or: banger-vm run {0} -- {shown} …)",
                image.as_deref().unwrap_or("IMAGE")
            )));
        }
    }
    let path = directory.or(named);
    match image {
        Some(image) if begins_like_a_path(&image) => match path {
            None => Ok((None, Some(image.into()))),
            Some(path) => Err(Failure::usage(format!(
                "both {image} and {} are repositories, and a command works on one",
                path.display()
            ))),
        },
        image => Ok((image, path)),
    }
}

fn is_path(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b'/')
        || path == Path::new(".")
        || path == Path::new("..")
}

fn begins_like_a_path(word: &str) -> bool {
    word == "."
        || word == ".."
        || ["/", "./", "../"]
            .iter()
            .any(|start| word.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_and_a_repository_are_told_apart() {
        let said = |image: Option<&str>, directory: Option<&str>, named: Option<&str>| {
            let found = words(
                image.map(str::to_owned),
                directory.map(PathBuf::from),
                named.map(PathBuf::from),
            );
            found.map(|(image, path)| (image, path.map(|path| path.display().to_string())))
        };
        let some = |word: &str| Some(word.to_owned());
        for (image, directory, named, expected) in [
            (None, None, None, (None, None)),
            (Some("debian:12"), None, None, (some("debian:12"), None)),
            (Some("host/a/b:1"), None, None, (some("host/a/b:1"), None)),
            (Some("x"), Some("./repo"), None, (some("x"), some("./repo"))),
            (Some("x"), Some("a/repo"), None, (some("x"), some("a/repo"))),
            (Some("x"), Some("."), None, (some("x"), some("."))),
            (Some("x"), None, Some("repo"), (some("x"), some("repo"))),
            (Some("./repo"), None, None, (None, some("./repo"))),
            (Some(".."), None, None, (None, some(".."))),
            (Some("/src"), None, None, (None, some("/src"))),
            (Some("-"), Some("/src"), None, (some("-"), some("/src"))),
        ] {
            assert_eq!(said(image, directory, named).unwrap(), expected);
        }
        assert!(said(Some("x"), Some("repo"), None).is_err());
        let swapped = said(Some("./repo"), Some("debian:12"), None).unwrap_err();
        let hint = swapped.parts().1.unwrap_or_default();
        assert_eq!(hint, "banger-vm run debian:12 ./repo -- …");
        let share = said(Some("/a:/b"), Some("debian:12"), None).unwrap_err();
        let hint = share.parts().1.unwrap_or_default();
        assert_eq!(hint, "banger-vm run --mount /a:/b debian:12 -- …");
        assert!(said(Some("./x"), Some("./y"), None).is_err());
        assert!(said(Some("./x"), None, Some("y")).is_err());
    }
}
