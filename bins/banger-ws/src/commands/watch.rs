//! `banger-ws watch`: what changes in a workspace, as it changes.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use lib_cli::{Failure, Session};
use lib_guest::{Change, Changes, Watch, What};
use lib_model::{SCHEMA, WatchRecord};
use lib_store::{VmRow, now_ms};
use lib_ws::Ignored;

use crate::cli::WatchArgs;
use crate::guest;

/// More lines in a second than anybody reads are told by their number.
const MOST_LINES: u64 = 1000;

/// Prints until interrupted, or the VM ends.
pub(crate) fn run(session: &mut Session, args: &WatchArgs) -> Result<(), Failure> {
    let store = session.store_to_read()?;
    let workspace = super::workspace(&store, args.workspace.as_deref())?;
    let vm = store.vm(workspace.vm.as_str())?;
    let what = Watch {
        path: workspace.path.clone().into_bytes(),
        user: workspace.spec.user.clone(),
        entries: args.limit,
        skip: Vec::new(),
    };
    let mut ignored = (!args.ignored).then(|| Ignored::of(&workspace.source));
    let mut lines = Lines::new();
    let mut first = true;
    let mut failed = None;
    let agent = guest::of(session, &vm);
    let watched = agent.watch(what, None, &mut |changes| {
        if std::mem::take(&mut first) {
            let directories = match changes.directories {
                1 => "1 directory".to_owned(),
                many => format!("{many} directories"),
            };
            session.note(&format!(
                "watching {directories} at {} in {}; Ctrl-C ends it",
                workspace.path, vm.name
            ));
        }
        let printed = lines.print(session, &vm, changes, ignored.as_mut());
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                failed = Some(failure);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(failure) = failed {
        return Err(failure);
    }
    watched.map_err(|error| guest::failure(session, &vm, "watch", error))
}

/// How many were printed in the current second.
struct Lines {
    since: Instant,
    count: u64,
}

impl Lines {
    fn new() -> Lines {
        Lines {
            since: Instant::now(),
            count: 0,
        }
    }

    fn print(
        &mut self,
        session: &mut Session,
        vm: &VmRow,
        changes: Changes,
        mut ignored: Option<&mut Ignored>,
    ) -> Result<(), Failure> {
        if self.since.elapsed() >= Duration::from_secs(1) {
            (self.since, self.count) = (Instant::now(), 0);
        }
        let mut more = 0;
        for change in changes.changes {
            if self.count >= MOST_LINES {
                more += 1;
                continue;
            }
            let hidden = |ignored: &mut Ignored| {
                let from = change.from.as_deref();
                ignored.contains(&change.path) && from.is_none_or(|from| ignored.contains(from))
            };
            if ignored.as_deref_mut().is_some_and(hidden) {
                continue;
            }
            self.count += 1;
            session.output.emit_now(record(vm, &change))?;
        }
        if more > 0 {
            let told = WatchRecord {
                change: "more".into(),
                path: String::new(),
                count: more,
                ..record(vm, &nothing())
            };
            session.output.emit_now(told)?;
        }
        Ok(())
    }
}

fn nothing() -> Change {
    Change {
        path: Vec::new(),
        what: What::Added,
        from: None,
        mode: None,
        size: (0, 0),
    }
}

fn record(vm: &VmRow, change: &Change) -> WatchRecord {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let octal = |mode: u32| format!("{mode:04o}");
    let word = match change.what {
        What::Added => "added",
        What::Modified => "modified",
        What::Mode => "mode",
        What::Type => "type",
        What::Renamed => "renamed",
        What::Removed => "removed",
    };
    WatchRecord {
        schema: SCHEMA,
        id: vm.id.clone(),
        name: vm.name.clone(),
        time_ms: now_ms(),
        change: word.into(),
        path: text(&change.path),
        from: change.from.as_deref().map(text),
        old_mode: change.mode.map(|(before, _)| octal(before)),
        new_mode: change.mode.map(|(_, now)| octal(now)),
        old_size: change.size.0,
        new_size: change.size.1,
        count: 1,
    }
}
