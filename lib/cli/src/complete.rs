//! Live names for shell completion, straight from the store; with no store there are none.

use std::ffi::OsStr;

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use lib_store::{Context, Store, StoreError};

/// Completes names of images.
pub fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, Store::image_names)
}

/// Completes names of kernels.
pub fn kernels(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, Store::kernel_names)
}

/// Completes names of VMs.
pub fn vms(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, Store::vm_names)
}

/// Completes what selects workspaces.
pub fn workspaces(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, Store::workspace_names)
}

/// Completes names of VMs with a colon behind them, and paths of this host.
pub fn vm_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = candidates(current, |store| {
        let names = store.vm_names()?;
        Ok(names.into_iter().map(|name| name + ":").collect())
    });
    all.extend(PathCompleter::any().complete(current));
    all
}

/// Completes ids of operations.
pub fn operations(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, Store::operation_ids)
}

/// Completes whatever `names` lists. Errors complete nothing: a shell has no place for them.
pub fn candidates(
    current: &OsStr,
    names: impl FnOnce(&Store) -> Result<Vec<String>, StoreError>,
) -> Vec<CompletionCandidate> {
    let Some(prefix) = current.to_str() else {
        return Vec::new();
    };
    let store = Context::from_environment(None, std::env::var_os)
        .and_then(|context| Store::open_existing(&context));
    let Ok(Some(store)) = store else {
        return Vec::new();
    };
    // clap would write the argument's usage anew for each that has none.
    let tag = Some("names".into());
    names(&store)
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .map(|name| CompletionCandidate::new(name).tag(tag.clone()))
        .collect()
}
