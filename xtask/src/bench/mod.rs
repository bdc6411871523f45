//! Figures for SPEC.md, each beside something measured in the same run: read the ratios.

mod boot;
mod collection;
mod guests;
mod image;
pub(crate) mod measure;
mod net;
mod ssh;
mod start_up;
mod state;
mod workspaces;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use banger_tests::Fixtures;
use clap::ValueEnum;
use tempfile::TempDir;

use crate::build::{self, Profile};
use crate::demo::runtime_directory;
use crate::step::{Result, timed};
use crate::{fixtures, packages};
use measure::Cost;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum, default_value_t = What::All)]
    what: What,

    /// Runs of each measurement; 5 for start-up and guests, 3 for images without it
    #[arg(long)]
    runs: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Commands that do next to nothing, beside an empty program
    StartUp,
    /// Stores with many VMs, many commands at once
    State,
    /// Boots and commands in guests
    Guests,
    /// Of those, only files into guests and out of them
    Copies,
    /// Repositories into guests, changes out of them
    Workspaces,
    /// The network: addresses, interfaces, rules, names
    Net,
    /// From a registry to a file system, beside other tools and the physical floor
    Image,
    /// All of these
    All,
}

/// Measures, and prints a table.
pub(crate) fn bench(args: &Args) -> Result<()> {
    let wants = |what| args.what == what || args.what == What::All;
    let mut needed = vec![packages::DEMO, packages::TEST];
    if wants(What::Image) {
        needed.push(packages::BENCH);
    }
    if wants(What::Net) {
        needed.push(packages::NET_BENCH);
    }
    if wants(What::Guests) {
        needed.push(packages::SSH_BENCH);
    }
    timed("packages", || packages::missing(&needed)?.install())?;
    let bin = timed("executables", || match args.what {
        What::Image => build::programs(&["banger-image"]),
        _ => build::build(Profile::Release),
    })?;
    let fixtures = timed("kernel package and base image", || fixtures::prepare(bin))?;
    let runs = args.runs.unwrap_or(5).max(1);
    let bench = Bench::new(fixtures)?;
    let mut rows = Vec::new();
    if wants(What::StartUp) {
        timed("start-up", || bench.start_up(runs * 20, &mut rows))?;
    }
    if wants(What::State) {
        let bench = Bench::new(bench.fixtures.clone())?;
        timed("state", || bench.state(runs, &mut rows))?;
        let bench = Bench::new(bench.fixtures.clone())?;
        timed("collection", || bench.collection(&mut rows))?;
    }
    if wants(What::Guests) {
        timed("guests", || bench.guests(runs, &mut rows))?;
        timed("boots", || bench.boots(runs, &mut rows))?;
        timed("ssh", || bench.ssh(runs, &mut rows))?;
    }
    if args.what == What::Copies {
        bench.prepare_copies()?;
        timed("copies", || bench.copies(&mut rows))?;
    }
    if wants(What::Workspaces) {
        let bench = Bench::new(bench.fixtures.clone())?;
        timed("workspaces", || bench.workspaces(&mut rows))?;
    }
    if wants(What::Net) {
        timed("network", || bench.net(&mut rows))?;
    }
    if wants(What::Image) {
        let rounds = args.runs.unwrap_or(3).max(1);
        timed("images", || image::measure(&bench, rounds, &mut rows))?;
    }
    table(&rows);
    Ok(())
}

/// What, how much, beside what, how much that takes, and the ratio.
type Row = [String; 5];

struct Bench {
    fixtures: Fixtures,
    directory: TempDir,
    runtime: TempDir,
}

impl Bench {
    fn new(fixtures: Fixtures) -> Result<Bench> {
        Ok(Bench {
            fixtures,
            directory: tempfile::Builder::new().prefix("banger-bench-").tempdir()?,
            runtime: runtime_directory()?,
        })
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.fixtures.bin().join(program));
        command
            .args(arguments)
            .env("BANGER_STORE", self.store())
            .env("BANGER_RUNTIME_DIR", self.runtime.path());
        command
    }
}

fn remove(path: &Path) -> Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)?;
    } else if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The middle one; of an even number, the upper of the two in the middle.
fn middle<T: PartialOrd + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

/// Medians of each figure on its own.
fn medians(costs: &[Cost]) -> Cost {
    fn of<T: PartialOrd + Copy + Default>(costs: &[Cost], figure: impl Fn(&Cost) -> T) -> T {
        middle(costs.iter().map(figure).collect()).unwrap_or_default()
    }
    Cost {
        wall: of(costs, |cost| cost.wall),
        cpu: of(costs, |cost| cost.cpu),
        peak: of(costs, |cost| cost.peak),
        written: of(costs, |cost| cost.written),
    }
}

fn compared(what: &str, ours: Duration, other: &str, theirs: Duration) -> Row {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    [
        what.into(),
        shown(ours),
        other.into(),
        shown(theirs),
        format!("{ratio:.2}"),
    ]
}

fn alone(what: &str, shown: String) -> Row {
    [what.into(), shown, "-".into(), "-".into(), "-".into()]
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.2} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn table(rows: &[Row]) {
    let head = ["what", "banger", "beside", "takes", "ratio"].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].len());
        cells.max().unwrap_or(0)
    };
    for row in [&head].into_iter().chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:width$}", width = width(column)))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_few_and_many() {
        assert_eq!(middle::<u64>(vec![]), None);
        assert_eq!(middle(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(vec![4, 1, 3, 2]), Some(3));
    }
}
