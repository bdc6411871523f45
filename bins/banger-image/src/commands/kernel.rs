//! `banger-image kernel`.

use lib_cli::{Failure, Kind, Session, for_each, selectors};
use lib_kernel::ImportKernel;
use lib_model::KernelRecord;
use lib_store::{Store, StoreError};

use crate::cli::{KernelDeleteArgs, KernelImportArgs, KernelsArgs};

/// Imports a kernel and prints its record.
pub(crate) fn import(session: &mut Session, args: &KernelImportArgs) -> Result<(), Failure> {
    let request = ImportKernel {
        source: args.file.clone(),
        modules: args.modules.clone(),
        name: args.name.clone(),
        origin: None,
    };
    let mut store = session.store()?;
    let mut locks = session.locks();
    let bars = session.bars.clone();
    let record = lib_kernel::import(&mut store, &mut locks, &request, &*bars)?;
    session.output.emit(record)
}

/// Lists kernels, the newest first, which is the default. Makes no store.
pub(crate) fn list(session: &mut Session) -> Result<(), Failure> {
    let Some(store) = Store::open_existing(&session.context)? else {
        return Ok(());
    };
    for kernel in store.kernels()? {
        session.output.emit(kernel)?;
    }
    Ok(())
}

/// Shows everything about the kernels.
pub(crate) fn show(session: &mut Session, args: &KernelsArgs) -> Result<(), Failure> {
    let selectors = selectors(&args.kernels, Kind::Kernel)?;
    let store = session.store()?;
    for_each(selectors, |name| session.output.show(store.kernel(name)?))
}

/// Deletes the kernels and prints their last records.
pub(crate) fn delete(session: &mut Session, args: &KernelDeleteArgs) -> Result<(), Failure> {
    let selectors = selectors(&args.kernels, Kind::Kernel)?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    for_each(selectors, |name| {
        let guard = locks.images()?;
        let kernel = match store.kernel(name) {
            Err(StoreError::NotFound { .. }) if args.if_exists => return Ok(()),
            kernel => kernel?,
        };
        let trash = store.delete_kernel(&guard, &kernel)?;
        drop(guard);
        drop(trash);
        session.output.emit(KernelRecord {
            changed: true,
            ..kernel
        })
    })
}
