//! One file for each verb.

pub(crate) mod apply;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod list;
pub(crate) mod prepare;
pub(crate) mod status;
pub(crate) mod sync_keys;
pub(crate) mod watch;

use lib_cli::{Failure, Kind, Session, selectors};
use lib_model::Exit;
use lib_store::{Locks, Store, WorkspaceRow};
use lib_vm::Interrupt;
use lib_ws::{Env, Limits, Review};

use crate::cli::Selected;

/// What the library works with, for one command.
struct Rig {
    store: Store,
    locks: Locks,
    interrupt: Option<Interrupt>,
}

impl Rig {
    fn new(session: &Session) -> Result<Rig, Failure> {
        Ok(Rig {
            store: session.store()?,
            locks: session.locks(),
            interrupt: None,
        })
    }

    /// From the first time on, Ctrl-C is the library's; while records are waited for, it just ends us.
    fn env<'a>(
        &'a mut self,
        session: &'a Session,
        note: &'a dyn Fn(&str),
    ) -> Result<Env<'a>, Failure> {
        let failed = |error| Failure::io("take over the signals", error);
        let interrupt = match &mut self.interrupt {
            Some(interrupt) => interrupt,
            none => {
                let interrupt = none.insert(Interrupt::install().map_err(failed)?);
                interrupt.ends_waits_for(&mut self.locks).map_err(failed)?;
                interrupt
            }
        };
        Ok(Env {
            context: &session.context,
            store: &mut self.store,
            locks: &mut self.locks,
            interrupt,
            progress: &*session.bars,
            note,
        })
    }
}

/// The workspace that was named; else the one on standard input; else that of the current directory's
/// repository.
fn workspace(store: &Store, named: Option<&str>) -> Result<WorkspaceRow, Failure> {
    if let Some(named) = named.filter(|named| *named != "-") {
        return Ok(store.workspace(named)?);
    }
    if named.is_some() || lib_cli::stdin_is_data() {
        let mut found = selectors(&[], Kind::Workspace)?;
        if let Some(selector) = found.next() {
            return Ok(store.workspace(&selector?)?);
        }
    }
    let here =
        std::env::current_dir().map_err(|error| Failure::io("find this directory", error))?;
    let mut found = store.workspaces()?;
    found.retain(|workspace| here.starts_with(&workspace.source));
    match found.len() {
        0 => Err(
            Failure::usage("no workspace was named, and this directory is in none")
                .hint("banger-ws list"),
        ),
        1 => Ok(found.remove(0)),
        _ => {
            let mut names = Vec::new();
            for workspace in &found {
                let vm = store.vm(workspace.vm.as_str())?;
                names.push(format!("{}:{}", vm.name, workspace.path));
            }
            Err(Failure::usage(format!(
                "this repository is in several VMs: {}",
                names.join(", ")
            ))
            .hint("name one of them"))
        }
    }
}

fn limits(selected: &Selected) -> Limits {
    Limits {
        bytes: selected.max_size.0,
        ..Limits::default()
    }
}

/// For people: what deserves a look, what did not come, and the hash.
fn explain(session: &Session, review: &Review) {
    let note = |text: &str| session.note(text);
    lib_cli::explain_review(&note, &review.changes, &review.record);
}

/// The failure that ends a command after everything else was done.
fn refused(review: &Review) -> Result<(), Failure> {
    match review.refused.len() {
        0 => Ok(()),
        count => Err(Failure::new(
            Exit::Failed,
            format!(
                "{count} paths of the VM were refused: {}",
                lib_cli::listed(&review.refused)
            ),
        )),
    }
}
