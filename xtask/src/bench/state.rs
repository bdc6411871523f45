//! Stores with many VMs, and many commands at once.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::Image;

use super::start_up::{best_decile, wall};
use super::{Bench, Row, alone, compared, shown};
use crate::build;
use crate::step::{Result, captured, timed};

const VMS: usize = 1000;
const AT_ONCE: usize = 64;

impl Bench {
    pub(super) fn state(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        self.prepare()?;
        timed("64 commands at once", || self.at_once(rows))?;
        timed("1,000 VMs", || self.many(runs, rows))
    }

    fn prepare(&self) -> Result<()> {
        let archive = self.directory.path().join("busybox.tar");
        Image::busybox()?.write_archive(&archive, "busybox:latest")?;
        let archive = archive.to_string_lossy();
        captured(&mut self.command("banger-image", &["import", "--quiet", &archive]))?;
        let package = self.fixtures.kernel_package();
        let package = package.to_string_lossy();
        captured(&mut self.command("banger-image", &["kernel", "import", "--quiet", &package]))?;
        Ok(())
    }

    /// All succeed, and nobody holds a lock that others wait for.
    fn at_once(&self, rows: &mut Vec<Row>) -> Result<()> {
        // The same code with the places that note when a lock is taken and dropped.
        let program = build::with_failpoints("banger-vm")?;
        let log = self.directory.path().join("locks");
        let start = Instant::now();
        let commands: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let name = format!("at-once-{number}");
                let arguments = [
                    "create",
                    "--quiet",
                    "--no-start",
                    "--name",
                    &name,
                    "busybox",
                ];
                let ours = self.command("banger-vm", &arguments);
                let mut command = Command::new(&program);
                command.args(arguments);
                for (key, value) in ours.get_envs() {
                    command.env(key, value.unwrap_or_default());
                }
                command
                    .env("BANGER_FAILPOINTS", format!("record={}", log.display()))
                    .env("BANGER_LIBEXEC_DIR", self.fixtures.libexec())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn()
            })
            .collect::<std::io::Result<_>>()?;
        for mut command in commands {
            if !command.wait()?.success() {
                return Err("one of many creates failed".into());
            }
        }
        let took = start.elapsed();
        let listed = captured(&mut self.command("banger-vm", &["list", "--format", "ids"]))?;
        if listed.lines().count() != AT_ONCE {
            return Err(format!("{} VMs of {AT_ONCE}", listed.lines().count()).into());
        }
        let log = fs::read_to_string(log)?;
        rows.push(alone("64 creates at once, all", shown(took)));
        for lock in ["create", "images"] {
            let held = longest_hold(&log, lock);
            rows.push(alone(
                &format!("the longest hold of the lock `{lock}`"),
                shown(held),
            ));
        }
        Ok(())
    }

    fn many(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let (_, mut empty) = self.empty()?;
        for number in AT_ONCE..VMS {
            let name = format!("vm-{number}");
            let create = [
                "create",
                "--quiet",
                "--no-start",
                "--name",
                &name,
                "busybox",
            ];
            captured(&mut self.command("banger-vm", &create))?;
        }
        let mut list = self.command("banger-vm", &["list", "--json"]);
        let mut complete = self.command("banger-vm", &["--", "banger-vm", "show", ""]);
        complete
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", "2");
        let names = captured(&mut complete)?;
        if names.split_whitespace().count() < VMS {
            return Err(format!("completion knows too few names: {names}").into());
        }
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..runs * 20 {
            for (command, times) in [&mut empty, &mut list, &mut complete]
                .into_iter()
                .zip(&mut times)
            {
                times.push(wall(command)?);
            }
        }
        let [base, list, complete] = times.map(best_decile);
        let beside = "an empty Rust program";
        rows.push(compared("list of 1,000 VMs", list, beside, base));
        rows.push(compared(
            "completion of 1,000 names",
            complete,
            beside,
            base,
        ));
        Ok(())
    }
}

/// From the lines `<microseconds> <process> <point>`.
pub(super) fn longest_hold(log: &str, lock: &str) -> Duration {
    let (taken, dropped) = (format!("lock.{lock}.taken"), format!("lock.{lock}.drop"));
    let mut since = HashMap::new();
    let mut longest = 0;
    for line in log.lines() {
        let mut words = line.split(' ');
        let (Some(time), Some(process), Some(point)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(time) = time.parse::<u64>() else {
            continue;
        };
        if point == taken {
            since.insert(process.to_owned(), time);
        } else if point == dropped
            && let Some(since) = since.remove(process)
        {
            longest = longest.max(time.saturating_sub(since));
        }
    }
    Duration::from_micros(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_hold_is_of_one_process() {
        let log = "10 1 lock.create.taken\n20 2 lock.images.taken\n35 1 lock.create.drop\n\
                   36 2 lock.create.taken\n40 2 lock.create.drop\n99 2 lock.images.drop\n";
        assert_eq!(longest_hold(log, "create"), Duration::from_micros(25));
        assert_eq!(longest_hold(log, "images"), Duration::from_micros(79));
    }
}
