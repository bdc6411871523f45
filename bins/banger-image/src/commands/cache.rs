//! `banger-image gc` and `banger-image cache`.

use std::time::Duration;

use lib_cli::{Failure, Session};
use lib_image::{Collected, PARTIAL_AGE};
use lib_model::ByteSize;
use lib_store::Store;

use crate::cli::GcArgs;

/// Removes what no image has; prints a record of each blob that went, or would go.
pub(crate) fn gc(session: &mut Session, args: &GcArgs) -> Result<(), Failure> {
    collect(session, args, PARTIAL_AGE)
}

/// As [`gc`], and every beginning of a download too.
pub(crate) fn prune(session: &mut Session, args: &GcArgs) -> Result<(), Failure> {
    collect(session, args, Duration::ZERO)
}

fn collect(session: &mut Session, args: &GcArgs, partial_age: Duration) -> Result<(), Failure> {
    let what = Collected {
        dry_run: args.dry_run,
        partial_age,
    };
    let store = session.store()?;
    let mut locks = session.locks();
    let gone = lib_image::collect(&store, &mut locks, &what)?;
    let size = gone.iter().map(|blob| blob.size.0).sum();
    let verb = if args.dry_run { "would be" } else { "are" };
    session.note(&format!("{} {verb} free", ByteSize(size)));
    for blob in gone {
        session.output.emit(blob)?;
    }
    Ok(())
}

/// Lists all blobs. Makes no store.
pub(crate) fn list(session: &mut Session) -> Result<(), Failure> {
    let Some(store) = Store::open_existing(&session.context)? else {
        return Ok(());
    };
    for blob in lib_image::cached(&store)? {
        session.output.emit(blob)?;
    }
    Ok(())
}
