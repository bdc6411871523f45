//! `banger-vm logs`: the console, raw.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_wire::monitor::{ControlRequest, file};
use lib_cli::{Failure, Session};
use lib_store::{VmRow, now_ms};
use lib_vm::Control;

use crate::cli::LogsArgs;
use crate::console_lines::{self, Stamps, Wanted};
use crate::follow::Changes;

/// Prints the console log, or the monitor's and VMM's own.
pub(crate) fn run(session: &mut Session, args: &LogsArgs) -> Result<(), Failure> {
    let store = session.store()?;
    let vm = store.vm(&args.vm)?;
    let directory = session.context.vm(&vm.id);
    if args.follow {
        return follow(session, &vm, &directory, args);
    }
    if args.since.is_some() || args.until.is_some() || args.timestamps {
        return selected(session, &vm, &directory, args);
    }
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

fn wanted(args: &LogsArgs) -> Wanted {
    let before =
        |age: Duration| now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    Wanted {
        since_ms: args.since.map(before),
        until_ms: args.until.map(before),
        lines: args.tail,
    }
}

/// Prints lines by the time at which they came.
fn selected(
    session: &Session,
    vm: &VmRow,
    directory: &Path,
    args: &LogsArgs,
) -> Result<(), Failure> {
    let path = directory.join(file::CONSOLE_LOG);
    let log = match std::fs::read(&path) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            session.note(&format!("{} has not run yet", vm.name));
            return Ok(());
        }
        Err(error) => return Err(Failure::io(&format!("read {}", path.display()), error)),
    };
    let (begin, marks) = console_lines::marks(directory);
    let mut out = Stamps::new(io::stdout().lock(), args.timestamps);
    console_lines::wanted(&log, (begin, &marks), &wanted(args))
        .into_iter()
        .try_for_each(|line| out.write_at(line.time_ms, line.text))
        .map_err(|error| Failure::io("write to standard output", error))
}

/// Prints what is there and what comes, until the VM ends; one that does not run has ended.
fn follow(session: &Session, vm: &VmRow, directory: &Path, args: &LogsArgs) -> Result<(), Failure> {
    let changes = Changes::of(directory)?;
    // The monitor answers this when all of the console is in the file.
    let mut end = Control::connect(&session.context, vm).ok();
    if let Some(control) = &mut end {
        control.send(&ControlRequest::WaitExit)?;
    }
    let mut console = Console::open(directory.join(file::CONSOLE_LOG), args.tail)?;
    let mut stdout = Stamps::new(io::stdout().lock(), args.timestamps);
    if args.since.is_some() || args.timestamps {
        console.print_first(directory, &wanted(args), &mut stdout)?;
    }
    console.print(&mut stdout, 0)?;
    loop {
        let changed = match &end {
            Some(control) => changes.wait(file::CONSOLE_LOG, Some(control.as_fd()))?,
            None => None,
        };
        let renamed = match changed {
            Some(changed) => changed.renamed,
            None => changes.take(file::CONSOLE_LOG)?.renamed,
        };
        console.print(&mut stdout, renamed)?;
        if changed.is_none() {
            if end.is_none() && !console.path.exists() {
                session.note(&format!("{} has not run yet", vm.name));
            }
            return Ok(());
        }
    }
}

/// The console's file, and the one that takes its place when it is full.
struct Console {
    path: PathBuf,
    file: Option<File>,
}

impl Console {
    fn open(path: PathBuf, tail: Option<usize>) -> Result<Console, Failure> {
        let mut file = File::open(&path).ok();
        if let (Some(file), Some(lines)) = (&mut file, tail) {
            let start = tail_of(file, lines);
            let start = start.map_err(|error| Failure::io("read the console", error))?;
            file.seek(SeekFrom::Start(start))
                .map_err(|error| Failure::io("read the console", error))?;
        }
        Ok(Console { path, file })
    }

    /// Prints the wanted of what is there, with the times at which it came.
    fn print_first(
        &mut self,
        directory: &Path,
        wanted: &Wanted,
        out: &mut Stamps<impl Write>,
    ) -> Result<(), Failure> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let (begin, marks) = console_lines::marks(directory);
        let mut log = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut log))
            .map_err(|error| Failure::io("read the console", error))?;
        console_lines::wanted(&log, (begin, &marks), wanted)
            .into_iter()
            .try_for_each(|line| out.write_at(line.time_ms, line.text))
            .map_err(|error| Failure::io("print the console", error))
    }

    /// Prints what is new. A file that took the place of one that was full begins with the second half
    /// of that; after several in a row nothing of the last is known here.
    fn print(&mut self, out: &mut impl Write, renamed: usize) -> Result<(), Failure> {
        loop {
            let old = match &mut self.file {
                Some(file) => {
                    io::copy(file, out)
                        .and_then(|_| out.flush())
                        .map_err(|error| Failure::io("print the console", error))?;
                    file.metadata().ok()
                }
                None => None,
            };
            let Ok(mut next) = File::open(&self.path) else {
                return Ok(());
            };
            let same = old.as_ref().map(|old| (old.dev(), old.ino()))
                == next.metadata().ok().map(|new| (new.dev(), new.ino()));
            if same {
                return Ok(());
            }
            if let Some(old) = old.filter(|_| renamed <= 1) {
                next.seek(SeekFrom::Start(old.len() / 2))
                    .map_err(|error| Failure::io("read the console", error))?;
            }
            self.file = Some(next);
        }
    }
}

/// Where the last lines begin.
fn tail_of(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut at = bytes.len();
    let end = bytes.strip_suffix(b"\n").map_or(at, <[u8]>::len);
    if lines > 0 {
        let mut ends = bytes[..end]
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n');
        at = ends.nth(lines - 1).map_or(0, |(end, _)| end + 1);
    }
    Ok(at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(console: &mut Console, renamed: usize) -> String {
        let mut out = Vec::new();
        console.print(&mut out, renamed).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_file_that_took_the_place_of_a_full_one_is_not_printed_twice() {
        let directory = std::env::temp_dir().join(format!("banger-logs-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("console.log");
        std::fs::write(&path, "1\n2\n3\n4\n").unwrap();
        let mut console = Console::open(path.clone(), Some(3)).unwrap();
        assert_eq!(printed(&mut console, 0), "2\n3\n4\n");
        let replace = |text: &str| {
            std::fs::write(directory.join("new"), text).unwrap();
            std::fs::rename(directory.join("new"), &path).unwrap();
        };
        replace("3\n4\n5\n");
        assert_eq!(printed(&mut console, 1), "5\n");
        assert_eq!(printed(&mut console, 0), "");
        replace("7\n8\n9\n");
        assert_eq!(printed(&mut console, 2), "7\n8\n9\n");
        for (lines, start) in [(0, 6), (1, 4), (3, 0), (9, 0)] {
            let mut file = File::open(&path).unwrap();
            assert_eq!(tail_of(&mut file, lines).unwrap(), start, "{lines}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
