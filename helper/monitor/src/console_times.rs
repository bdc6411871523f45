//! `console.times`: when the console said what, for `logs --since`; bounded.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use banger_wire::monitor::console_time::{LENGTH, Mark, parse};

use crate::files;

/// Between two marks, in milliseconds: a console that says something all the time is not marked more often.
const PACE: u64 = 100;
/// A longer file loses what the log has lost, and every other mark if need be.
const MOST: usize = 16 * 1024;

/// The marks of one run.
#[derive(Debug)]
pub(crate) struct ConsoleTimes {
    file: File,
    last_ms: u64,
    count: usize,
}

impl ConsoleTimes {
    pub(crate) fn create(path: &Path) -> io::Result<ConsoleTimes> {
        Ok(ConsoleTimes {
            file: files::create(path)?,
            last_ms: 0,
            count: 0,
        })
    }

    /// What comes now begins at `position`.
    pub(crate) fn mark(&mut self, time_ms: u64, position: u64) -> io::Result<()> {
        // A clock that was set back is no reason to mark each byte.
        if self.last_ms != 0 && time_ms.abs_diff(self.last_ms) < PACE {
            return Ok(());
        }
        self.last_ms = time_ms;
        self.write(Mark { time_ms, position })
    }

    /// The log begins at `position` now.
    pub(crate) fn cut(&mut self, position: u64) -> io::Result<()> {
        self.write(Mark {
            time_ms: 0,
            position,
        })
    }

    fn write(&mut self, mark: Mark) -> io::Result<()> {
        self.file.write_all(&mark.to_bytes())?;
        self.count += 1;
        if self.count > MOST {
            self.thin()
        } else {
            Ok(())
        }
    }

    fn thin(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; self.count * LENGTH];
        self.file.read_exact_at(&mut bytes, 0)?;
        let (begin, marks) = parse(&bytes);
        // The one before counts for what the log begins with.
        let first = marks.partition_point(|mark| mark.position <= begin);
        let mut kept: Vec<Mark> = marks[first.saturating_sub(1)..].to_vec();
        if kept.len() > MOST / 2 {
            let mut keep = false;
            kept.retain(|_| {
                keep = !keep;
                keep
            });
        }
        kept.insert(
            0,
            Mark {
                time_ms: 0,
                position: begin,
            },
        );
        let bytes: Vec<u8> = kept.iter().flat_map(|mark| mark.to_bytes()).collect();
        self.file.set_len(0)?;
        self.count = kept.len();
        self.file.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn marks_are_paced_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.times");
        let mut times = ConsoleTimes::create(&path).unwrap();
        for (time, position) in [(1000, 0), (1050, 10), (1100, 20), (500, 30)] {
            times.mark(time, position).unwrap();
        }
        let (begin, marks) = parse(&fs::read(&path).unwrap());
        let seen: Vec<_> = marks.iter().map(|m| (m.time_ms, m.position)).collect();
        assert_eq!((begin, seen), (0, vec![(1000, 0), (1100, 20), (500, 30)]));
        for step in 0..3 * MOST as u64 {
            times.mark(10_000 + step * 1000, 100 + step).unwrap();
            if step == 1000 {
                times.cut(200).unwrap();
            }
        }
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() <= (MOST + 1) * LENGTH, "{}", bytes.len());
        let (begin, marks) = parse(&bytes);
        assert_eq!(begin, 200);
        assert!(marks.len() > MOST / 4);
        assert!(
            marks
                .windows(2)
                .all(|two| two[0].position < two[1].position)
        );
        assert!(marks[0].position <= 200, "{:?}", marks[0]);
    }
}
