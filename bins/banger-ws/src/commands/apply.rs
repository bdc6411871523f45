//! `banger-ws apply`.

use lib_cli::{Failure, Session};
use lib_ws::Target;

use super::Rig;
use crate::cli::ApplyArgs;

pub(crate) fn run(session: &mut Session, args: ApplyArgs) -> Result<(), Failure> {
    let target = match args.to {
        Some(branch) => Target::Branch(branch),
        None => Target::Worktree,
    };
    let mut rig = Rig::new(session)?;
    let row = super::workspace(&rig.store, args.workspace.as_deref())?;
    let note = |text: &str| session.note(text);
    let mut env = rig.env(session, &note)?;
    let review = lib_ws::apply(&mut env, &row, &target, args.hash.as_deref())?;
    session.output.emit(review.record)
}
