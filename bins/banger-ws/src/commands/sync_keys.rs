//! `banger-ws sync-keys`: gives running VMs what they would get at their next start.

use std::path::PathBuf;

use lib_cli::{Failure, Kind, Session, selectors};
use lib_config::{Config, Environment};
use lib_model::{SCHEMA, SyncRecord};
use lib_ws::{Files, Identity, WsError};

use crate::cli::SyncKeysArgs;
use crate::guest;

/// Keys for SSH, the git identity, and the files of `vm.file-sync`.
pub(crate) fn run(session: &mut Session, args: &SyncKeysArgs) -> Result<(), Failure> {
    let config = Config::load(&Environment::process())?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let note = |text: &str| session.note(text);
    let files = Files::collect(&config.vm.file_sync, home.as_deref(), &note)?;
    let keys = lib_vm::authorized_keys(&session.context, &note)?;
    let store = session.store()?;
    let mut locks = session.locks();
    lib_cli::for_each(selectors(&args.vms, Kind::Vm)?, |name| {
        let vm = store.vm(name)?;
        let agent = guest::of(session, &vm);
        let failed = |error| guest::failure(session, &vm, "sync-keys", error);
        let workspace = store.workspaces_of(&vm.id)?.pop();
        let user = workspace
            .as_ref()
            .and_then(|found| found.spec.user.as_deref());
        let source = workspace.as_ref().map(|found| found.source.as_path());
        let identity = Identity::of_host(source.filter(|source| source.is_dir()))
            .map_err(|error| Failure::io("ask git who you are", error))?;
        let _turn = locks.workspace(&vm.id)?;
        agent.authorize_keys(keys.clone()).map_err(failed)?;
        let told = identity.tell(&agent, user).map_err(WsError::from)?;
        files.send(&agent, None)?;
        session.output.emit(SyncRecord {
            schema: SCHEMA,
            id: vm.id.clone(),
            name: vm.name.clone(),
            keys: keys.len() as u64,
            identity: told.as_str().to_owned(),
            files: files.count() as u64,
        })
    })
}
