//! `banger-image list`.

use lib_cli::{Failure, Session};
use lib_store::Store;

/// Lists images, the newest first. Makes no store.
pub(crate) fn run(session: &mut Session) -> Result<(), Failure> {
    let Some(store) = Store::open_existing(&session.context)? else {
        return Ok(());
    };
    for image in store.images()? {
        session.output.emit(image)?;
    }
    Ok(())
}
