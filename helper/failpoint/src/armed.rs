//! What the points do in tests.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, raise};

use crate::VARIABLE;

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Error,
    Kill,
    Hold(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
struct Clause {
    point: String,
    time: u32,
    action: Action,
}

#[derive(Debug, Default)]
struct Plan {
    record: Option<PathBuf>,
    clauses: Vec<Clause>,
    passed: Mutex<HashMap<&'static str, u32>>,
}

pub(crate) fn point(name: &'static str) -> io::Result<()> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    match PLAN.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| Plan::parse(&text))) {
        Some(plan) => plan.reach(name),
        None => Ok(()),
    }
}

impl Plan {
    fn parse(text: &str) -> Plan {
        let mut plan = Plan::default();
        for clause in text.split(';').filter(|clause| !clause.is_empty()) {
            match parse_clause(clause) {
                Some(Parsed::Record(file)) => plan.record = Some(file),
                Some(Parsed::Clause(clause)) => plan.clauses.push(clause),
                None => panic!("{VARIABLE}: `{clause}` is not understood"),
            }
        }
        plan
    }

    fn reach(&self, name: &'static str) -> io::Result<()> {
        let time = {
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            let time = passed.entry(name).or_insert(0);
            *time += 1;
            *time
        };
        if let Some(file) = &self.record {
            record(file, name)?;
        }
        let clause = self
            .clauses
            .iter()
            .find(|c| c.point == name && c.time == time);
        match clause.map(|clause| &clause.action) {
            None => Ok(()),
            Some(Action::Error) => Err(Errno::ENOSPC.into()),
            Some(Action::Kill) => {
                raise(Signal::SIGKILL)?;
                unreachable!("SIGKILL cannot be caught (signal(7))")
            }
            Some(Action::Hold(directory)) => hold(directory),
        }
    }
}

enum Parsed {
    Record(PathBuf),
    Clause(Clause),
}

fn parse_clause(text: &str) -> Option<Parsed> {
    let (point, action) = text.split_once('=')?;
    if point == "record" {
        return Some(Parsed::Record(action.into()));
    }
    let (point, time) = point.split_once('#')?;
    let action = match action {
        "error" => Action::Error,
        "kill" => Action::Kill,
        _ => Action::Hold(action.strip_prefix("hold:")?.into()),
    };
    Some(Parsed::Clause(Clause {
        point: point.to_owned(),
        time: time.parse().ok()?,
        action,
    }))
}

/// One short write each, so that lines of several processes do not mix (write(2), O_APPEND).
fn record(file: &Path, name: &str) -> io::Result<()> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    let microseconds = time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000;
    let line = format!("{microseconds} {} {name}\n", std::process::id());
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    file.write_all(line.as_bytes())
}

fn hold(directory: &Path) -> io::Result<()> {
    drop(
        OpenOptions::new()
            .write(true)
            .open(directory.join("reached"))?,
    );
    let mut go = File::open(directory.join("go"))?;
    go.read_to_end(&mut Vec::new())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_time_fails_and_all_are_recorded() {
        let base = tempfile::tempdir().unwrap();
        let log = base.path().join("log");
        let plan = Plan::parse(&format!("record={};a#2=error", log.display()));
        assert!(plan.reach("a").is_ok());
        assert!(plan.reach("b").is_ok());
        let error = plan.reach("a").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(plan.reach("a").is_ok());
        let names: Vec<String> = std::fs::read_to_string(log)
            .unwrap()
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a", "b", "a", "a"]);
    }

    #[test]
    fn clauses_are_parsed_strictly() {
        assert!(parse_clause("a=error").is_none());
        assert!(parse_clause("a#x=kill").is_none());
        assert!(parse_clause("a#1=what").is_none());
        let Some(Parsed::Clause(clause)) = parse_clause("db.commit#3=hold:/d") else {
            panic!("a clause")
        };
        assert_eq!(
            clause,
            Clause {
                point: "db.commit".into(),
                time: 3,
                action: Action::Hold("/d".into())
            }
        );
    }
}
