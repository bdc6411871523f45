//! What happened to VMs: a bounded file of JSON lines that commands and monitors append to.
//!
//! One write a line, to a file opened for appending, so lines of several processes do not mix
//! (open(2), O_APPEND). A file that is full is renamed to the one before, which is lost then. The
//! journal is an account of what happened and not the truth about what is: a process that dies between
//! the deed and its line leaves no line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use banger_failpoint::point;
use serde::{Deserialize, Serialize};

/// The name of the journal in its directory.
pub const FILE: &str = "events.log";
/// A file that is longer is renamed; two are kept.
const LIMIT: u64 = 1 << 20;
const LONGEST_DETAIL: usize = 500;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    kind: String,
    schema: u32,
    /// The VM.
    pub id: String,
    /// Its name then.
    pub name: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// One word.
    pub event: String,
    /// Why, or what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Line {
    /// Something that happens now.
    pub fn now(id: &str, name: &str, event: &str, detail: Option<&str>) -> Line {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let cut = |text: &str| text[..text.floor_char_boundary(LONGEST_DETAIL)].to_owned();
        Line {
            kind: "event".to_owned(),
            schema: 1,
            id: id.to_owned(),
            name: name.to_owned(),
            time_ms: since.map_or(0, |since| since.as_millis() as u64),
            event: event.to_owned(),
            detail: detail.map(cut),
        }
    }
}

/// Where the lines before those in `path` are.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Appends a line, durably.
///
/// # Errors
/// Those of the file system. What the line is about has happened all the same.
pub fn append(path: &Path, line: &Line) -> io::Result<()> {
    append_within(path, line, LIMIT)
}

fn append_within(path: &Path, line: &Line, limit: u64) -> io::Result<()> {
    point("journal.open")?;
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    point("journal.write")?;
    // A line that could only be begun is one that readers skip.
    file.write_all(&text)?;
    file.sync_data()?;
    let written = file.metadata()?;
    if written.len() > limit && fs::metadata(path)?.ino() == written.ino() {
        // Of two who find it full at once, the second renames a file that was just begun: that is
        // what the lock on it is for.
        if file.try_lock().is_ok() && fs::metadata(path)?.ino() == written.ino() {
            point("journal.rename")?;
            fs::rename(path, older(path))?;
        }
    }
    Ok(())
}

/// Reads lines as they are appended, through renames.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// A line that is not complete yet.
    begun: Vec<u8>,
}

impl Reader {
    /// From the oldest line that is kept.
    pub fn new(path: &Path) -> Reader {
        Reader {
            path: path.to_owned(),
            file: File::open(older(path)).ok().map(BufReader::new),
            begun: Vec::new(),
        }
    }

    /// The next line; `None` when there is none yet. Lines that are none are skipped.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(file) = &mut self.file {
                file.read_until(b'\n', &mut self.begun)?;
                if self.begun.ends_with(b"\n") {
                    let line = serde_json::from_slice(&self.begun);
                    self.begun.clear();
                    match line {
                        Ok(line) => return Ok(Some(line)),
                        Err(_) => continue,
                    }
                }
            }
            // Looked for only at the end of the file before: it is not written any more.
            let Ok(next) = File::open(&self.path) else {
                return Ok(None);
            };
            let same = match &self.file {
                Some(file) => file.get_ref().metadata()?.ino() == next.metadata()?.ino(),
                None => false,
            };
            if same {
                return Ok(None);
            }
            self.begun.clear();
            self.file = Some(BufReader::new(next));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Line {
        Line::now("id", "name", "event", Some(&format!("{number:04}")))
    }

    fn details(reader: &mut Reader) -> Vec<String> {
        let mut details = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            details.push(line.detail.unwrap());
        }
        details
    }

    #[test]
    fn the_newest_lines_are_kept_and_followed_through_renames() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut follower = Reader::new(&path);
        assert_eq!(follower.next_line().unwrap(), None);
        let mut followed = Vec::new();
        for number in 0..100 {
            append_within(&path, &line(number), 1000).unwrap();
            followed.extend(details(&mut follower));
            let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
            assert!(size(&path) < 1200 && size(&older(&path)) < 1200);
        }
        let all: Vec<String> = (0..100).map(|number| format!("{number:04}")).collect();
        assert_eq!(followed, all);
        let kept = details(&mut Reader::new(&path));
        assert!(kept.len() > 5 && all.ends_with(&kept), "{kept:?}");
    }

    #[test]
    fn what_is_no_line_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        append(&path, &line(1)).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"half a li\n\xff\n{}\n").unwrap();
        append(&path, &line(2)).unwrap();
        assert_eq!(details(&mut Reader::new(&path)), ["0001", "0002"]);
    }

    #[test]
    fn lines_of_several_threads_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for number in 0..10 {
                        append(path, &line(thread * 100 + number)).unwrap();
                    }
                });
            }
        });
        let mut seen = details(&mut Reader::new(&path));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 40);
    }
}
