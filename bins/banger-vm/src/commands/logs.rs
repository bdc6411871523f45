//! `banger-vm logs`: the console, raw.

use std::fs::File;
use std::io::{self, Write};

use banger_wire::monitor::file;
use lib_cli::{Failure, Session};

use crate::cli::LogsArgs;

/// Prints the console log, or the monitor's and VMM's own.
pub(crate) fn run(session: &mut Session, args: &LogsArgs) -> Result<(), Failure> {
    let store = session.store()?;
    let vm = store.vm(&args.vm)?;
    let directory = session.context.vm(&vm.id);
    let failed = |error| Failure::io("write to standard output", error);
    let mut stdout = io::stdout().lock();
    if let (Some(lines), false) = (args.tail, args.vmm) {
        for line in lib_vm::console_tail(&directory, lines) {
            writeln!(stdout, "{line}").map_err(failed)?;
        }
        return Ok(());
    }
    let path = directory.join(if args.vmm {
        file::VMM_LOG
    } else {
        file::CONSOLE_LOG
    });
    match File::open(&path) {
        Ok(mut log) => io::copy(&mut log, &mut stdout).map(drop).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            session.note(&format!("{} has not run yet", vm.name));
            Ok(())
        }
        Err(error) => Err(Failure::io(&format!("read {}", path.display()), error)),
    }
}
