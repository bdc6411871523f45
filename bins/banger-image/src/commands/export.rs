//! `banger-image export`.

use std::io::Write;

use lib_cli::{Failure, Session};

use crate::cli::ExportArgs;

/// Writes a layout and prints its record, or prints a derivation as it is.
pub(crate) fn run(session: &mut Session, args: &ExportArgs) -> Result<(), Failure> {
    let _tidy = session.tidy()?;
    let store = session.store()?;
    let mut locks = session.locks();
    let bars = session.bars.clone();
    let Some(directory) = &args.oci else {
        let text = lib_image::derivation(&store, &mut locks, &args.image, &*bars)?;
        return std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::io("write to standard output", error));
    };
    let layout = lib_image::export_layout(&store, &mut locks, &args.image, directory, &*bars)?;
    session.output.emit(layout)
}
