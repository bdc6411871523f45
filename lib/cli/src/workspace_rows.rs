//! Rows of records about workspaces.

use lib_model::{Record, WatchRecord};

use crate::{age, printable};

/// The columns of a record's table.
pub(crate) fn heading(record: &Record) -> &'static [&'static str] {
    match record {
        Record::Workspace(_) => &[
            "VM", "PATH", "SOURCE", "MODE", "BRANCH", "BASE", "CHANGES", "STATE", "PREPARED",
        ],
        Record::Change(_) => &["STATUS", "PATH", "LINES", "MODE", "RISKS"],
        Record::Export(_) => &["VM", "FILES", "COMMITS", "RISKY", "HASH", "TARGET"],
        Record::Watch(_) => &["CHANGE", "BYTES", "MODE", "PATH"],
        Record::Sync(_) => &["VM", "KEYS", "GIT IDENTITY", "FILES"],
        _ => &[],
    }
}

/// The cells of a record.
pub(crate) fn row(record: &Record) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let short = |text: &str| text.chars().take(12).collect::<String>();
    match record {
        Record::Workspace(workspace) => vec![
            workspace.name.to_string(),
            printable(&workspace.path),
            printable(&workspace.source.to_string_lossy()),
            workspace.mode.clone(),
            or_dash(workspace.branch.as_deref().map(printable)),
            or_dash(workspace.base.as_deref().map(short)),
            or_dash(workspace.changes.map(|count| count.to_string())),
            match (workspace.ready, workspace.stale) {
                (false, _) => "incomplete",
                (true, true) => "stale",
                (true, false) => "ready",
            }
            .into(),
            or_dash(
                workspace
                    .prepared_ms
                    .map(|time| age(time, lib_store::now_ms())),
            ),
        ],
        Record::Change(change) => {
            let path = match &change.from {
                Some(from) => format!("{} -> {}", printable(from), printable(&change.path)),
                None => printable(&change.path),
            };
            let lines = match (change.added, change.removed) {
                (Some(added), Some(removed)) => format!("+{added} -{removed}"),
                _ => "binary".into(),
            };
            let mode = match (&change.old_mode, &change.new_mode) {
                (Some(old), Some(new)) if old == new => new.clone(),
                (Some(old), Some(new)) => format!("{old} -> {new}"),
                (old, new) => or_dash(new.clone().or_else(|| old.clone())),
            };
            let risks: Vec<&str> = change.risks.iter().map(|risk| risk.as_str()).collect();
            vec![
                change.status.letter().to_string(),
                path,
                lines,
                mode,
                risks.join(", "),
            ]
        }
        Record::Export(export) => vec![
            export.name.to_string(),
            export.files.to_string(),
            export.commits.to_string(),
            export.risky.to_string(),
            export.hash.clone(),
            or_dash(export.target.as_deref().map(printable)),
        ],
        Record::Watch(change) => watch_row(change),
        Record::Sync(sync) => vec![
            sync.name.to_string(),
            sync.keys.to_string(),
            sync.identity.clone(),
            sync.files.to_string(),
        ],
        _ => Vec::new(),
    }
}

fn watch_row(change: &WatchRecord) -> Vec<String> {
    let path = match &change.from {
        Some(from) => format!("{} -> {}", printable(from), printable(&change.path)),
        None if change.change == "more" => format!("{} more files", change.count),
        None => printable(&change.path),
    };
    let mark = match change.change.as_str() {
        "added" => "+",
        "removed" => "-",
        "modified" => "M",
        "mode" => "m",
        "type" => "T",
        "renamed" => "R",
        _ => "…",
    };
    let bytes = match (change.old_size, change.new_size) {
        (old, new) if new > old => format!("+{}", new - old),
        (old, new) if new < old => format!("-{}", old - new),
        _ => String::new(),
    };
    let mode = change.new_mode.clone().unwrap_or_default();
    vec![mark.to_owned(), bytes, mode, path]
}
