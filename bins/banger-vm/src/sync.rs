//! What a VM gets of its owner's at its start: files of `vm.file-sync`, and the git identity.

use std::io;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use lib_cli::{Failure, Session};
use lib_config::Config;
use lib_store::VmRow;
use lib_ws::{Files, Identity};

use crate::guest;

/// Reads the files, before anything is made: what may not go keeps a VM from starting.
///
/// # Errors
/// A file that leads out of the home, belongs to somebody else, or is too large.
pub(crate) fn files(session: &Session, config: &Config) -> Result<Files, Failure> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let note = |text: &str| session.note(text);
    Ok(Files::collect(
        &config.vm.file_sync,
        home.as_deref(),
        &note,
    )?)
}

/// Who the user is, as git will say: asked while a VM boots.
pub(crate) struct Asked(Option<JoinHandle<io::Result<Identity>>>);

/// Asks git who the user is, beside whatever comes next. The signals that are blocked stay blocked there, too.
pub(crate) fn ask_identity() -> Asked {
    let asked = thread::Builder::new().spawn(|| Identity::of_host(None));
    Asked(asked.ok())
}

impl Asked {
    fn answer(self) -> io::Result<Identity> {
        match self.0.map(JoinHandle::join) {
            Some(Ok(answer)) => answer,
            Some(Err(_)) | None => Identity::of_host(None),
        }
    }
}

/// Gives them to a guest that runs. It stays as it is when it cannot take them, and the user is told.
pub(crate) fn deliver(session: &Session, vm: &VmRow, files: &Files, identity: Option<Asked>) {
    let agent = guest::of(session, vm);
    if !files.is_empty()
        && let Err(error) = files.send(&agent, None)
    {
        tell(session, vm, &Failure::from(error));
    }
    let Some(identity) = identity else {
        return;
    };
    let told = identity
        .answer()
        .map_err(|error| Failure::io("ask git who you are", error))
        .and_then(|identity| Ok(identity.tell(&agent, None).map_err(lib_ws::WsError::from)?));
    match told {
        Ok(told) => session.detail(&format!("git identity in {}: {}", vm.name, told.as_str())),
        Err(failure) => tell(session, vm, &failure),
    }
}

fn tell(session: &Session, vm: &VmRow, failure: &Failure) {
    let words = failure.parts().0.join(": ");
    let name = &vm.name;
    session.note(&format!(
        "{name} runs, but: {words}   (again: banger-ws sync-keys {name})"
    ));
}
