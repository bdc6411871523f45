//! `banger-image tag`.

use lib_cli::{Failure, Session};

use crate::cli::TagArgs;

/// Names an image and prints its record.
pub(crate) fn run(session: &mut Session, args: &TagArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    let record = lib_image::tag(&mut store, &mut locks, &args.image, &args.name)?;
    session.output.emit(record)
}
