//! Commands that do next to nothing, beside an empty Rust program.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Bench, Row, compared};
use crate::step::{Result, go_on, line, run};

impl Bench {
    /// The empty program that all others are beside.
    pub(super) fn empty(&self) -> Result<(String, Command)> {
        let source = self.directory.path().join("empty.rs");
        let empty = self.directory.path().join("empty");
        fs::write(&source, "fn main() {}\n")?;
        run(Command::new("rustc")
            .args(["-O", "-C", "strip=debuginfo", "-o"])
            .args([&empty, &source]))?;
        Ok((String::new(), Command::new(&empty)))
    }

    pub(super) fn start_up(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let mut commands = vec![self.empty()?];
        for program in ["banger", "banger-image", "banger-vm"] {
            for argument in ["--version", "--help"] {
                let command = self.command(program, &[argument]);
                commands.push((format!("{program} {argument}"), command));
            }
        }
        let list = self.command("banger-vm", &["list"]);
        commands.push(("banger-vm list".into(), list));
        // In turns, so that a busy moment of the machine hits all of them.
        let mut times = vec![Vec::new(); commands.len()];
        for _ in 0..runs {
            for ((_, command), times) in commands.iter_mut().zip(&mut times) {
                times.push(wall(command)?);
            }
        }
        let mut best = times.into_iter().map(best_decile);
        let base = best.next().ok_or("the empty program was measured")?;
        for ((what, _), time) in commands[1..].iter().zip(best) {
            rows.push(compared(what, time, "an empty Rust program", base));
        }
        Ok(())
    }
}

/// How long a command takes from its start to its end.
///
/// # Errors
/// When it fails.
pub(super) fn wall(command: &mut Command) -> Result<Duration> {
    go_on()?;
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let wall = start.elapsed();
    if output.status.success() {
        return Ok(wall);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{}`: {}\n{said}", line(command), output.status).into())
}

/// What start-up takes when nothing disturbs it.
pub(super) fn best_decile(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 10]
}
