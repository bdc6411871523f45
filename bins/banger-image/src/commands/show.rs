//! `banger-image show`.

use lib_cli::{Failure, Session};

use crate::cli::ImagesArgs;
use crate::names::{for_each, selectors};

/// Shows everything about the images.
pub(crate) fn run(session: &mut Session, args: &ImagesArgs) -> Result<(), Failure> {
    let selectors = selectors(&args.images, "image")?;
    let store = session.store()?;
    for_each(selectors, |name| session.output.show(store.image(name)?))
}
