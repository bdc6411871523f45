//! `banger-ws export`.

use lib_cli::{Failure, Format, Session};
use lib_ws::Target;

use super::Rig;
use crate::cli::{ExportArgs, FormatArg};

pub(crate) fn run(session: &mut Session, args: ExportArgs) -> Result<(), Failure> {
    let target = match (args.apply_to, args.form, args.output) {
        (Some(branch), ..) => Target::Branch(branch),
        (None, FormatArg::Patch, output) => Target::Patch(output),
        (None, FormatArg::Bundle, Some(output)) => Target::Bundle(output),
        (None, FormatArg::Bundle, None) => {
            return Err(Failure::usage("a bundle needs a file").hint("--output FILE"));
        }
    };
    let mut rig = Rig::new(session)?;
    let row = super::workspace(&rig.store, args.selected.workspace.as_deref())?;
    let note = |text: &str| session.note(text);
    let review = lib_ws::review(
        &mut rig.env(session, &note)?,
        &row,
        super::limits(&args.selected),
    )?;
    super::explain(session, &review);
    let to_stdout = target == Target::Patch(None);
    // Only who asked for records gets them in the place of the patch.
    if to_stdout && session.output.is_chosen() {
        return super::diff::records(session, &review);
    }
    if review.is_empty() && !to_stdout && !matches!(target, Target::Patch(_)) {
        session.output.emit(review.record.clone())?;
        return super::refused(&review);
    }
    // What was just shown, and nothing that came since.
    let hash = review.record.hash.clone();
    let review = lib_ws::apply(&mut rig.env(session, &note)?, &row, &target, Some(&hash))?;
    if to_stdout {
        lib_cli::show_patch(review.patch()?)?;
        return super::refused(&review);
    }
    if session.output.format() != Format::Table {
        for change in &review.changes {
            session.output.emit(change.clone())?;
        }
    }
    session.output.emit(review.record.clone())?;
    super::refused(&review)
}
