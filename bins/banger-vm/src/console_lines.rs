//! Lines of a console with the times at which they came, as the monitor marked them.

use std::io::{self, Write};
use std::path::Path;

use banger_wire::monitor::console_time::{Mark, parse};
use banger_wire::monitor::file;

/// What of a console is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// The newest of them.
    pub(crate) lines: Option<usize>,
}

/// A line with its end, and when its first byte came; 0 when nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) time_ms: u64,
    pub(crate) text: &'a [u8],
}

/// The marks of a VM; none for a run of an older banger.
pub(crate) fn marks(directory: &Path) -> (u64, Vec<Mark>) {
    parse(&std::fs::read(directory.join(file::CONSOLE_TIMES)).unwrap_or_default())
}

/// The wanted lines of a log, of which the first byte is the console's `begin`th.
pub(crate) fn wanted<'a>(
    log: &'a [u8],
    (begin, marks): (u64, &[Mark]),
    wanted: &Wanted,
) -> Vec<Line<'a>> {
    let mut position = begin;
    let mut lines: Vec<Line<'a>> = Vec::new();
    for text in log.split_inclusive(|byte| *byte == b'\n') {
        let later = marks.partition_point(|mark| mark.position <= position);
        let mark = marks.get(later.saturating_sub(1));
        let time_ms = mark.map_or(0, |mark| mark.time_ms);
        position += text.len() as u64;
        let old = wanted.since_ms.is_some_and(|since| time_ms < since);
        let new = wanted.until_ms.is_some_and(|until| time_ms > until);
        if !old && !new {
            lines.push(Line { time_ms, text });
        }
    }
    let most = wanted.lines.unwrap_or(lines.len());
    lines.split_off(lines.len().saturating_sub(most))
}

/// Writes through, with a time before each line if so.
pub(crate) struct Stamps<W> {
    out: W,
    stamped: bool,
    begins: bool,
}

impl<W: Write> Stamps<W> {
    pub(crate) fn new(out: W, stamped: bool) -> Stamps<W> {
        Stamps {
            out,
            stamped,
            begins: true,
        }
    }

    /// A piece that came then.
    pub(crate) fn write_at(&mut self, time_ms: u64, piece: &[u8]) -> io::Result<()> {
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.stamped && self.begins {
                write!(self.out, "{} ", lib_cli::utc(time_ms))?;
            }
            self.out.write_all(line)?;
            self.begins = line.ends_with(b"\n");
        }
        Ok(())
    }
}

/// What is written comes now.
impl<W: Write> Write for Stamps<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(lib_store::now_ms(), bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_times_of_their_beginnings() {
        let mark = |time_ms, position| Mark { time_ms, position };
        // The log lost its first hundred bytes.
        let marks = [
            mark(1000, 0),
            mark(2000, 103),
            mark(3000, 104),
            mark(4000, 110),
        ];
        let log = b"a\nbcd\ne\nlast";
        let texts = |asked: Wanted| -> Vec<(u64, String)> {
            let lines = wanted(log, (100, &marks), &asked).into_iter();
            let text = |line: Line<'_>| String::from_utf8(line.text.to_vec()).unwrap();
            lines.map(|line| (line.time_ms, text(line))).collect()
        };
        let all = [
            (1000, "a\n".to_owned()),
            (1000, "bcd\n".to_owned()),
            (3000, "e\n".to_owned()),
            (3000, "last".to_owned()),
        ];
        assert_eq!(texts(Wanted::default()), all);
        let some = |since_ms, until_ms, lines| Wanted {
            since_ms,
            until_ms,
            lines,
        };
        assert_eq!(texts(some(Some(2000), None, None)), all[2..]);
        assert_eq!(texts(some(None, Some(1000), None)), all[..2]);
        assert_eq!(texts(some(None, None, Some(1))), all[3..]);
        assert!(texts(some(Some(5000), None, None)).is_empty());
        // Nobody knows: everything is old.
        assert_eq!(wanted(log, (0, &[]), &Wanted::default()).len(), 4);
        assert!(wanted(log, (0, &[]), &some(Some(1), None, None)).is_empty());
    }

    #[test]
    fn a_line_in_pieces_has_one_time() {
        let mut out = Vec::new();
        let mut stamps = Stamps::new(&mut out, true);
        for (time, piece) in [(1000, "one "), (2000, "line\ntwo"), (3000, "\n")] {
            stamps.write_at(time, piece.as_bytes()).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01 00:00:01Z one line\n1970-01-01 00:00:02Z two\n"
        );
    }
}
