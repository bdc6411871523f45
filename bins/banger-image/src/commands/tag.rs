//! `banger-image tag` and `untag`.

use lib_cli::{Failure, Session};

use crate::cli::{TagArgs, UntagArgs};

/// Names an image and prints its record.
pub(crate) fn run(session: &mut Session, args: &TagArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    let record = lib_image::tag(&mut store, &mut locks, &args.image, &args.name)?;
    session.output.emit(record)
}

/// Takes the names from their images and prints the records of those.
pub(crate) fn untag(session: &mut Session, args: &UntagArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    for name in &args.names {
        let record = lib_image::untag(&mut store, &mut locks, name)?;
        session.output.emit(record)?;
    }
    Ok(())
}
