//! What a review says to people: the changes that deserve a look, what did not come, and the hash.

use lib_model::{ChangeRecord, ExportRecord, Risk};

/// More lines of what did not come are told by their number.
const MOST_LEFT_OUT: usize = 50;
/// Of a list within a sentence.
const MOST_LISTED: usize = 5;

/// Tells it, line by line.
pub fn explain_review(note: &dyn Fn(&str), changes: &[ChangeRecord], export: &ExportRecord) {
    for change in changes.iter().filter(|change| !change.risks.is_empty()) {
        let risks: Vec<&str> = change.risks.iter().map(|risk| risk.as_str()).collect();
        note(&format!(
            "look at {} {}: {}",
            change.status.letter(),
            change.path,
            risks.join(", ")
        ));
    }
    let filtered = |change: &ChangeRecord| change.risks.contains(&Risk::Filtered);
    if changes.iter().any(filtered) {
        note(
            "filtered: as the VM has it; what this host's git does to such files (Git LFS, another encoding) is not done \
             yet. Where they are applied: git add --renormalize FILE",
        );
    }
    let left_out = export.left_out.iter();
    for words in left_out.take(MOST_LEFT_OUT) {
        note(&format!("not exported: {words}"));
    }
    if let more @ 1.. = export.left_out.len().saturating_sub(MOST_LEFT_OUT) {
        note(&format!("not exported: {more} more"));
    }
    let commits = match export.commits {
        0 => String::new(),
        1 => ", 1 commit".into(),
        more => format!(", {more} commits"),
    };
    let files = match export.files {
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    note(&format!("{files} changed{commits}; {}", export.hash));
}

/// A list in a sentence.
pub fn listed(items: &[String]) -> String {
    let mut text = items[..items.len().min(MOST_LISTED)].join("; ");
    if items.len() > MOST_LISTED {
        text.push_str(&format!("; and {} more", items.len() - MOST_LISTED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_fill_the_screen() {
        let words: Vec<String> = (0..7).map(|number| format!("f{number}")).collect();
        assert_eq!(listed(&words), "f0; f1; f2; f3; f4; and 2 more");
        assert_eq!(listed(&words[..2]), "f0; f1");
        assert_eq!(listed(&[]), "");
    }
}
