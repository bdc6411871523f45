//! The VMs that a command is about, looked up one after another.

use lib_cli::{Failure, Kind, selectors};
use lib_store::{Store, VmRow};

/// Acts on each of the VMs; a failure of one does not keep the others from their turn.
///
/// # Errors
/// The first failure, after all were tried.
pub(crate) fn for_each(
    store: &mut Store,
    names: &[String],
    mut act: impl FnMut(&mut Store, VmRow) -> Result<(), Failure>,
) -> Result<(), Failure> {
    lib_cli::for_each(selectors(names, Kind::Vm)?, |name| {
        let vm = store.vm(name)?;
        act(store, vm)
    })
}
