//! `banger-image delete`.

use lib_cli::{Failure, Kind, Session, for_each, selectors};
use lib_store::StoreError;

use crate::cli::DeleteArgs;

/// Deletes the images and prints their last records.
pub(crate) fn run(session: &mut Session, args: &DeleteArgs) -> Result<(), Failure> {
    let selectors = selectors(&args.images, Kind::Image)?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    for_each(selectors, |name| {
        match lib_image::delete(&mut store, &mut locks, name) {
            Err(lib_image::Error::Store(StoreError::NotFound { .. })) if args.if_exists => Ok(()),
            deleted => session.output.emit(deleted?),
        }
    })
}
