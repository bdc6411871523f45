//! The repository that `run` works on: prepared before the command, looked at after it. Nothing here decides
//! that work is thrown away unless it was seen that there is none, or that it is safe elsewhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lib_cli::{Failure, Session};
use lib_model::{Exit, ExportRecord};
use lib_store::{Locks, Store, VmRow, WorkspaceRow};
use lib_vm::Interrupt;
use lib_ws::{Limits, Prepare};
use tempfile::NamedTempFile;

use crate::cli::{ProcessArgs, ToolArgs};
use crate::workspace;

/// A repository for the command.
pub(crate) struct Checkout {
    request: Prepare,
    row: Option<WorkspaceRow>,
    /// Where the patch goes; made before the VM, so that what keeps it from being written is known then.
    export: Option<Export>,
    discard: bool,
    began: bool,
}

struct Export {
    path: PathBuf,
    file: NamedTempFile,
}

/// What a command left.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Nothing that would be lost.
    Nothing,
    /// This, in words.
    Changes(String),
    /// Nobody knows.
    Unknown(Failure),
    /// Changes that were to be written, and were not.
    NotExported(Failure),
}

impl Ended {
    /// The VM must stay.
    pub(crate) fn holds_work(&self) -> bool {
        !matches!(self, Ended::Nothing)
    }

    /// Why it stays, for people.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Ended::Nothing => None,
            Ended::Changes(words) => Some(words.clone()),
            Ended::Unknown(failure) => Some(format!(
                "whether the workspace changed is not known ({})",
                failure.parts().0.join(": ")
            )),
            Ended::NotExported(_) => Some("the changes could not be exported".into()),
        }
    }

    /// What the user asked for and did not get.
    pub(crate) fn result(self) -> Result<(), Failure> {
        match self {
            Ended::Nothing | Ended::Changes(_) | Ended::Unknown(_) => Ok(()),
            Ended::NotExported(failure) => Err(failure),
        }
    }
}

impl Checkout {
    /// Looks at what was typed; none without a repository.
    ///
    /// # Errors
    /// Flags for a workspace without one; no repository there; a file that cannot be written.
    pub(crate) fn plan(
        source: Option<PathBuf>,
        export: Option<PathBuf>,
        discard: bool,
    ) -> Result<Option<Checkout>, Failure> {
        let Some(source) = source else {
            return match export {
                Some(_) => Err(Failure::usage("--export needs a repository to work on")
                    .hint("banger-vm run --export FILE IMAGE ./repo -- COMMAND")),
                None => Ok(None),
            };
        };
        let request = Prepare {
            source: std::path::absolute(&source)
                .map_err(|error| Failure::io(&format!("find {}", source.display()), error))?,
            ..Prepare::default()
        };
        lib_ws::check_source(&request)?;
        Ok(Some(Checkout {
            request,
            row: None,
            export: export.map(Export::begin).transpose()?,
            discard,
            began: false,
        }))
    }

    /// Sends the repository.
    ///
    /// # Errors
    /// As [`lib_ws::prepare`].
    pub(crate) fn prepare(
        &mut self,
        session: &Session,
        store: &mut Store,
        locks: &mut Locks,
        vm: &VmRow,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        workspace::prepare(session, store, locks, vm, &self.request, interrupt)?;
        self.row = store.workspaces_of(&vm.id)?.pop();
        Ok(())
    }

    /// Makes the command run there.
    ///
    /// # Errors
    /// As [`workspace::enter`].
    pub(crate) fn enter(
        &self,
        session: &Session,
        vm: &VmRow,
        process: &mut ProcessArgs,
        tools: &ToolArgs,
        argv: &mut Vec<String>,
    ) -> Result<(), Failure> {
        match (&self.row, &process.workdir) {
            (Some(row), None) => workspace::enter(session, vm, row, process, tools, argv),
            _ => Ok(()),
        }
    }

    /// The command may have run.
    pub(crate) fn began(&mut self) {
        self.began = true;
    }

    /// What the command left, after it was written where the user wants it.
    pub(crate) fn end(
        &mut self,
        session: &Session,
        store: &mut Store,
        locks: &mut Locks,
        interrupt: &Interrupt,
    ) -> Ended {
        let Some(row) = self.row.as_ref().filter(|_| self.began && !self.discard) else {
            return Ended::Nothing;
        };
        let mut env = lib_ws::Env {
            context: &session.context,
            store,
            locks,
            interrupt,
            progress: &*session.bars,
            note: &|text| session.note(text),
        };
        let Some(export) = self.export.take() else {
            return match lib_ws::look(&mut env, row, Limits::default()) {
                Ok(review) if review.is_empty() && review.record.left_out.is_empty() => {
                    Ended::Nothing
                }
                Ok(review) => Ended::Changes(left(&review.record)),
                Err(error) => Ended::Unknown(error.into()),
            };
        };
        match export.write(&mut env, row) {
            Ok(words) => {
                session.note(&words);
                Ended::Nothing
            }
            Err(failure) => Ended::NotExported(failure),
        }
    }
}

/// What there is to get.
fn left(export: &ExportRecord) -> String {
    match (export.files, export.commits) {
        (0, 0) => "the workspace holds what is not exported".into(),
        (0, 1) => "1 commit was made in the workspace".into(),
        (0, commits) => format!("{commits} commits were made in the workspace"),
        (1, _) => "1 file of the workspace changed".into(),
        (files, _) => format!("{files} files of the workspace changed"),
    }
}

impl Export {
    fn begin(path: PathBuf) -> Result<Export, Failure> {
        let failed = |error| Failure::io(&format!("write {}", path.display()), error);
        let path = std::path::absolute(&path).map_err(failed)?;
        if path.is_dir() {
            return Err(
                Failure::usage(format!("{} is a directory", path.display())).hint("--export FILE")
            );
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        Ok(Export {
            file: tempfile::Builder::new()
                .prefix(".banger-export-")
                // As any other new file of the user's.
                .permissions(std::fs::Permissions::from_mode(0o666))
                .tempfile_in(directory)
                .map_err(failed)?,
            path,
        })
    }

    /// Writes the patch, and makes sure that it is on the disk before anybody throws away the original.
    fn write(self, env: &mut lib_ws::Env<'_>, row: &WorkspaceRow) -> Result<String, Failure> {
        let Export { path, mut file } = self;
        let shown = path.display().to_string();
        let failed = |error| Failure::io(&format!("write {shown}"), error);
        let review = lib_ws::review(env, row, Limits::default())?;
        io::copy(&mut review.patch()?, &mut file).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
        lib_cli::explain_review(env.note, &review.changes, &review.record);
        match review.record.left_out.is_empty() && review.refused.is_empty() {
            true => Ok(format!("written to {shown}")),
            false => Err(Failure::new(
                Exit::Failed,
                format!(
                    "{shown} has not everything: {}",
                    lib_cli::listed(&review.record.left_out)
                ),
            )),
        }
    }
}
