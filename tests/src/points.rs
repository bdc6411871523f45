//! Places where a step is made to fail, or a process killed or held (`helper/failpoint`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

/// A place, and which time it is reached by one process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// From 1.
    pub time: u32,
}

/// The shell assignment that makes `action` happen at a point.
pub fn clause(point: &Point, action: &str) -> String {
    format!("BANGER_FAILPOINTS='{}#{}={action}'", point.name, point.time)
}

/// The points that the processes of a recorded run passed; of one that is passed often, the first, the
/// second and the last time.
///
/// # Panics
/// When the record cannot be read: the executables have no such places.
pub fn recorded(file: &Path) -> Vec<Point> {
    let text = fs::read_to_string(file).expect("the executables are built with failpoints");
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(process), Some(point)) = (words.next(), words.next()) {
            *counts.entry((process, point)).or_default() += 1;
        }
    }
    let mut points = BTreeSet::new();
    for ((_, name), count) in counts {
        for time in [1, 2, count].into_iter().filter(|time| *time <= count) {
            points.insert(Point {
                name: name.to_owned(),
                time,
            });
        }
    }
    points.into_iter().collect()
}

/// A process that waits at a point until it is let go.
#[derive(Debug)]
pub struct Hold {
    directory: TempDir,
}

impl Default for Hold {
    fn default() -> Self {
        Hold::new()
    }
}

impl Hold {
    /// Makes the pipes.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn new() -> Hold {
        let directory = tempfile::tempdir().expect("a directory for two pipes");
        for name in ["reached", "go"] {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            mkfifo(&directory.path().join(name), mode).expect("a pipe can be made");
        }
        Hold { directory }
    }

    /// The shell assignment that holds a process there.
    pub fn at(&self, name: &str, time: u32) -> String {
        let point = Point {
            name: name.to_owned(),
            time,
        };
        clause(&point, &format!("hold:{}", self.directory.path().display()))
    }

    /// Waits until the process is there.
    ///
    /// # Panics
    /// When the pipe cannot be opened.
    pub fn wait(&self) {
        let mut reached = File::open(self.pipe("reached")).expect("the pipe is there");
        // Ends when the process has closed its side.
        let _ = reached.read_to_end(&mut Vec::new());
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When nobody waits.
    pub fn release(&self) {
        let mut go = File::options()
            .write(true)
            .open(self.pipe("go"))
            .expect("the pipe is there");
        go.write_all(b"go").expect("the process reads");
    }

    fn pipe(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
