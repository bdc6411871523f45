//! The VMs that a command is about, looked up one after another.

use lib_cli::{Failure, Kind, Selectors, selectors};
use lib_store::{Store, VmRow};

use crate::cli::VmsArgs;

/// Names or ids of the VMs that are meant; those on standard input as they come.
///
/// # Errors
/// None were given; a store that cannot be read.
pub(crate) fn selected<'a>(store: &Store, vms: &'a VmsArgs) -> Result<Selectors<'a>, Failure> {
    if !vms.all {
        return selectors(&vms.vms, Kind::Vm);
    }
    let all = store.vms()?.into_iter();
    Ok(Box::new(all.map(|vm| Ok(vm.id.to_string()))))
}

/// Acts on each of the VMs; a failure of one does not keep the others from their turn.
///
/// # Errors
/// The first failure, after all were tried.
pub(crate) fn for_each(
    store: &mut Store,
    vms: &VmsArgs,
    mut act: impl FnMut(&mut Store, VmRow) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let selected = selected(store, vms)?;
    lib_cli::for_each(selected, |name| {
        let vm = store.vm(name)?;
        act(store, vm)
    })
}
