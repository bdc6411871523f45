//! Many commands at once, some of them killed, and what must be true afterwards.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Sandbox;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Command lines at a time.
    pub processes: usize,
    /// Commands of each.
    pub operations: usize,
    /// Guests that boot at a time; emulation is pure computation.
    pub boots: usize,
    /// Where the random choices begin.
    pub seed: u64,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// How often each command ended with which status, 137 for killed ones.
    pub ends: BTreeMap<(&'static str, i32), usize>,
    /// Commands that were killed.
    pub killed: usize,
    /// Statuses or words that no command may end with.
    pub wrong: Vec<String>,
}

/// Names that the commands fight for.
const NAMES: u64 = 12;

/// Numbers that look random and are the same for the same seed (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A number of places that are waited for.
#[derive(Debug, Default)]
struct Places(Mutex<usize>, Condvar);

impl Places {
    fn within<T>(&self, limit: usize, work: impl FnOnce() -> T) -> T {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= limit {
            taken = self.1.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        drop(taken);
        let value = work();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.1.notify_one();
        value
    }
}

impl Storm {
    /// Lets it happen in a sandbox that has an image `busybox`.
    ///
    /// # Panics
    /// When a command cannot be started.
    pub fn rage(self, sandbox: &Sandbox) -> Report {
        let report = Arc::new(Mutex::new(Report::default()));
        let boots = Places::default();
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..self.processes {
                let (report, boots, done) = (report.clone(), &boots, &done);
                scope.spawn(move || {
                    let mut random = Random(self.seed.wrapping_add(number as u64 * 7919) | 1);
                    for _ in 0..self.operations {
                        let end = self.one(sandbox, &mut random, boots);
                        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                        *report.ends.entry((end.verb, end.status)).or_default() += 1;
                        report.killed += usize::from(end.killed);
                        report.wrong.extend(end.wrong);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let report = std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
        assert_eq!(done.into_inner(), self.processes * self.operations);
        report
    }

    fn one(self, sandbox: &Sandbox, random: &mut Random, boots: &Places) -> End {
        let name = format!("vm{}", random.below(NAMES));
        let (verb, arguments): (_, Vec<&str>) = match random.below(100) {
            0..30 => (
                "create",
                vec![
                    "create",
                    "--no-start",
                    "--network=none",
                    "--memory=128M",
                    "--name",
                ],
            ),
            30..36 => ("start", vec!["start"]),
            36..46 => ("stop", vec!["stop", "--grace=2"]),
            46..66 => ("delete", vec!["delete", "--force"]),
            66..76 => ("set", vec!["set", "--cpus=2"]),
            76..82 => ("exec", vec!["exec"]),
            82..86 => ("kill", vec!["kill"]),
            86..90 => ("detach", vec!["create", "--detach", "--no-start", "--name"]),
            _ => ("list", vec!["list"]),
        };
        let mut command = sandbox.command("banger-vm");
        command.args(arguments);
        match verb {
            "list" => {}
            "create" | "detach" => drop(command.args([&name, "busybox"])),
            "exec" => drop(command.args([&name, "--", "true"])),
            _ => drop(command.arg(&name)),
        }
        // One in eight is killed, most of them early, where the work is done.
        let kill_after =
            (random.below(8) == 0).then(|| Duration::from_micros(random.below(20_000)));
        match verb {
            "start" => boots.within(self.boots, || end(verb, command, kill_after)),
            _ => end(verb, command, kill_after),
        }
    }
}

struct End {
    verb: &'static str,
    status: i32,
    killed: bool,
    wrong: Option<String>,
}

fn end(verb: &'static str, mut command: Command, kill_after: Option<Duration>) -> End {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the executable is there");
    if let Some(after) = kill_after {
        // Not a wait for anything: a random moment is the point.
        let end = Instant::now() + after;
        while Instant::now() < end && !matches!(child.try_wait(), Ok(Some(_))) {
            thread::yield_now();
        }
        // Gone already is as good.
        let _ = child.kill();
    }
    let output = child.wait_with_output().expect("the child is ours");
    let killed = output.status.code().is_none();
    let status = output.status.code().unwrap_or(137);
    let said = String::from_utf8_lossy(&output.stderr);
    // A guest that shuts down ends its commands by SIGTERM.
    let ended_by_guest = verb == "exec" && status == 143;
    let lawful = (ended_by_guest || [0, 1, 3, 4, 125, 255, 137].contains(&status))
        && !said.contains("panicked")
        && !said.contains("locked")
        && !said.contains("damaged")
        && !(status == 1 && verb != "start" && verb != "stop" && verb != "exec");
    End {
        verb,
        status,
        killed,
        wrong: (!lawful).then(|| format!("[{status}] {line}\n{said}")),
    }
}
