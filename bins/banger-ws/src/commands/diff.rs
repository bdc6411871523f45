//! `banger-ws diff`.

use lib_cli::{Failure, Session};
use lib_ws::Review;

use super::Rig;
use crate::cli::DiffArgs;

pub(crate) fn run(session: &mut Session, args: &DiffArgs) -> Result<(), Failure> {
    let mut rig = Rig::new(session)?;
    let row = super::workspace(&rig.store, args.selected.workspace.as_deref())?;
    let note = |text: &str| session.note(text);
    let limits = super::limits(&args.selected);
    let review = lib_ws::review(&mut rig.env(session, &note)?, &row, limits)?;
    super::explain(session, &review);
    if args.stat || session.output.is_chosen() {
        return records(session, &review);
    }
    lib_cli::show_patch(review.patch()?)?;
    super::refused(&review)
}

/// The changes, and what they come to.
pub(super) fn records(session: &mut Session, review: &Review) -> Result<(), Failure> {
    for change in &review.changes {
        session.output.emit(change.clone())?;
    }
    session.output.emit(review.record.clone())?;
    super::refused(review)
}
