//! A patch on standard output: as it is for programs; on a terminal in git's colours, by a pager, and so that
//! nothing in it can drive the terminal or hide from who reads it.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Child, Command, Stdio};

use crate::Failure;

/// Longer lines are shown in pieces.
const LONGEST: u64 = 64 * 1024;

/// Shows a patch.
///
/// # Errors
/// When it cannot be read, or standard output fails; a closed pipe ends quietly.
pub fn show_patch(mut patch: impl Read) -> Result<(), Failure> {
    let failed = |error| Failure::io("write to standard output", error);
    let mut stdout = io::stdout().lock();
    if !stdout.is_terminal() {
        return io::copy(&mut patch, &mut stdout).map(drop).map_err(failed);
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut patch = BufReader::new(patch);
    // Nobody needs a pager for nothing.
    if patch.fill_buf().map_err(failed)?.is_empty() {
        return Ok(());
    }
    let Some(mut pager) = pager(std::env::var_os("PAGER")) else {
        return style(patch, stdout, colour).map_err(failed);
    };
    let shown = match pager.stdin.take() {
        Some(stdin) => style(patch, stdin, colour),
        None => Ok(()),
    };
    let ended = pager.wait();
    // Who has read enough leaves the pager, and that is no failure.
    shown.map_err(failed)?;
    ended.map(drop).map_err(failed)
}

/// `PAGER`, or less(1); none when it is `cat` or empty, or cannot be started.
fn pager(variable: Option<OsString>) -> Option<Child> {
    let words = variable.unwrap_or_else(|| "less".into());
    let words = words.to_string_lossy().into_owned();
    let mut words = words.split_whitespace();
    let program = words.next().filter(|program| *program != "cat")?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped());
    // As git asks it: colours, no screen of its own for what fits on one (git(1), core.pager).
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    command.spawn().ok()
}

fn style(mut patch: impl BufRead, mut out: impl Write, colour: bool) -> io::Result<()> {
    let mut in_hunk = false;
    let mut line = Vec::new();
    let mut whole = true;
    let mut style = "";
    loop {
        line.clear();
        if (&mut patch).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return out.flush();
        }
        if whole {
            if line.starts_with(b"diff --git ") {
                in_hunk = false;
            }
            style = match line[0] {
                b'@' => "\u{1b}[36m",
                b'+' if in_hunk => "\u{1b}[32m",
                b'-' if in_hunk => "\u{1b}[31m",
                _ if in_hunk => "",
                _ => "\u{1b}[1m",
            };
            in_hunk |= line.starts_with(b"@@ ") || line.starts_with(b"GIT binary patch");
        }
        whole = line.pop_if(|last| *last == b'\n').is_some();
        let end = if whole { "\n" } else { "" };
        let text = safe(&line);
        match colour && !style.is_empty() {
            true => write!(out, "{style}{text}\u{1b}[m{end}")?,
            false => write!(out, "{text}{end}")?,
        }
    }
}

/// Bytes as people can read them: control characters, those that turn the direction of what follows
/// (Unicode, Bidi_Control), and what is no UTF-8, by their numbers.
fn safe(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            match c {
                '\t' => text.push(c),
                c if c.is_control() || turns => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(patch: &[u8], colour: bool) -> String {
        let mut out = Vec::new();
        style(patch, &mut out, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_in_a_patch_drives_the_terminal() {
        let patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@ \n-\u{1b}[2J\r\n+ok \u{202e}desrever\t\u{9b}1m";
        let bytes = [patch.as_bytes(), b"\xff\n"].concat();
        assert_eq!(
            shown(&bytes, false),
            "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@ \n-\\u{1b}[2J\\r\n+ok \\u{202e}desrever\t\\u{9b}1m\\xff\n"
        );
    }

    #[test]
    fn colours_are_gits() {
        let patch = b"diff --git a/x b/x\n--- a/x\n@@ -1 +1 @@\n--- x\n same\n+y\ndiff --git a/y b/y\n--- a/y";
        assert_eq!(
            shown(patch, true),
            "\u{1b}[1mdiff --git a/x b/x\u{1b}[m\n\u{1b}[1m--- a/x\u{1b}[m\n\u{1b}[36m@@ -1 +1 @@\u{1b}[m\n\
             \u{1b}[31m--- x\u{1b}[m\n same\n\u{1b}[32m+y\u{1b}[m\n\u{1b}[1mdiff --git a/y b/y\u{1b}[m\n\u{1b}[1m--- a/y\u{1b}[m"
        );
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces_of_one_colour() {
        let patch = [&b"@@ -1 +1 @@\n+"[..], &vec![b'-'; 100_000], b"\n"].concat();
        let shown = shown(&patch, true);
        assert_eq!(shown.matches("\u{1b}[32m").count(), 2);
        assert!(!shown.contains("\u{1b}[31m"));
    }

    #[test]
    fn cat_is_no_pager() {
        assert!(pager(Some("cat".into())).is_none());
        assert!(pager(Some(" ".into())).is_none());
        assert!(pager(Some("/nowhere/pager -x".into())).is_none());
    }
}
