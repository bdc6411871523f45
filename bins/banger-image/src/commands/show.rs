//! `banger-image show`.

use lib_cli::{Failure, Kind, Session, for_each, selectors};

use crate::cli::ImagesArgs;

/// Shows everything about the images.
pub(crate) fn run(session: &mut Session, args: &ImagesArgs) -> Result<(), Failure> {
    let selectors = selectors(&args.images, Kind::Image)?;
    let store = session.store()?;
    for_each(selectors, |name| session.output.show(store.image(name)?))
}
