//! `banger-image verify`.

use lib_cli::{Failure, Kind, Session, for_each, selectors};
use lib_model::Exit;

use crate::cli::ImagesArgs;

/// Checks the images and prints the records of those that are sound.
pub(crate) fn run(session: &mut Session, args: &ImagesArgs) -> Result<(), Failure> {
    let selectors = selectors(&args.images, Kind::Image)?;
    let store = session.store()?;
    let mut locks = session.locks();
    let bars = session.bars.clone();
    for_each(selectors, |name| {
        let verified = lib_image::verify(&store, &mut locks, name, &*bars)?;
        for skipped in &verified.skipped {
            session.note(&format!("{name}: not checked: {skipped}"));
        }
        if verified.faults.is_empty() {
            return session.output.emit(verified.image);
        }
        let faults = verified.faults.join("; ");
        let source = &verified.image.source;
        Err(Failure::new(
            Exit::Failed,
            format!("the image `{name}` is damaged: {faults}"),
        )
        .hint(format!(
            "banger-image delete {name}, then pull or import it again (it came from {source})"
        )))
    })
}
