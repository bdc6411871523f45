//! `banger-vm events`.

use lib_cli::{Failure, Session};
use lib_model::{EventRecord, SCHEMA};
use lib_store::{JournalLine, JournalReader, now_ms};

use crate::cli::EventsArgs;
use crate::follow::Changes;

/// Prints the journal, and with `--follow` goes on with what is added to it.
pub(crate) fn run(session: &mut Session, args: &EventsArgs) -> Result<(), Failure> {
    let store = session.store()?;
    let mut wanted = Vec::new();
    for name in &args.vms {
        // One that was deleted is found by the name that the journal has.
        wanted.push(
            store
                .vm(name)
                .map_or_else(|_| name.clone(), |vm| vm.id.to_string()),
        );
    }
    let since = match (args.since, args.follow) {
        (Some(since), _) => {
            now_ms().saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        }
        (None, true) => now_ms(),
        (None, false) => 0,
    };
    let path = session.context.journal();
    // Before the first look, or what comes in between would not be told.
    let changes = match args.follow {
        true => Some(Changes::of(session.context.data())?),
        false => None,
    };
    let mut reader = JournalReader::new(&path);
    loop {
        let read = |error| Failure::io("read the journal", error);
        while let Some(line) = reader.next_line().map_err(read)? {
            let fits = wanted.is_empty() || wanted.iter().any(|w| *w == line.id || *w == line.name);
            if fits && line.time_ms >= since {
                session.output.emit_now(record(line))?;
            }
        }
        match &changes {
            Some(changes) => drop(changes.wait("", None)?),
            None => return Ok(()),
        }
    }
}

fn record(line: JournalLine) -> EventRecord {
    EventRecord {
        schema: SCHEMA,
        id: line.id,
        name: line.name,
        time_ms: line.time_ms,
        event: line.event,
        detail: line.detail,
    }
}
