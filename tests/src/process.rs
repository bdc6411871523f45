//! Child processes with deadlines: what they print, how they end.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// A command that takes longer hangs: emulated boots take seconds, on a busy machine tens of them.
const DEADLINE: Duration = Duration::from_secs(240);

/// What a command leaves behind may hold its output open for so long.
const AFTERMATH: Duration = Duration::from_secs(15);
/// A command that prints more does it for ever.
const OUTPUT_LIMIT: usize = 16 << 20;
/// As much of an output goes into a failure message.
const SHOWN: usize = 4000;

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for failure messages.
    pub line: String,
    /// Exit status; 128+n when a signal ended it, as shells count.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Outcome {
    /// Standard output of a command that succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(&self) -> &str {
        self.exits(0);
        &self.stdout
    }

    /// Checks the exit status.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn exits(&self, status: i32) -> &Self {
        assert_eq!(self.status, status, "exit status of\n{self}");
        self
    }

    /// Checks that standard error contains a text.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(
            self.stderr.contains(text),
            "standard error without {text:?}:\n{self}"
        );
        self
    }

    /// Checks the form of every failure: `error:` first, a `hint:` with `hint` in it.
    ///
    /// # Panics
    /// When a part is missing.
    #[track_caller]
    pub fn hints(&self, hint: &str) -> &Self {
        let found = self
            .stderr
            .lines()
            .any(|line| line.starts_with("hint: ") && line.contains(hint));
        assert!(
            self.stderr.lines().any(|line| line.starts_with("error: ")),
            "no `error:` in\n{self}"
        );
        assert!(found, "no `hint:` with {hint:?} in\n{self}");
        self
    }

    /// Records on standard output, one JSON object a line.
    ///
    /// # Panics
    /// When a line is none.
    #[track_caller]
    pub fn records(&self) -> Vec<serde_json::Value> {
        self.ok()
            .lines()
            .map(|line| match serde_json::from_str(line) {
                Ok(record) => record,
                Err(error) => panic!("{line:?} is no record ({error}) in\n{self}"),
            })
            .collect()
    }

    /// The only record on standard output.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn record(&self) -> serde_json::Value {
        let mut records = self.records();
        assert_eq!(records.len(), 1, "not one record in\n{self}");
        records.remove(0)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}", self.line)?;
        writeln!(f, "[status {} after {:.1?}]", self.status, self.took)?;
        writeln!(f, "--- stdout\n{}", end_of(&self.stdout))?;
        write!(f, "--- stderr\n{}", end_of(&self.stderr))
    }
}

fn end_of(text: &str) -> &str {
    let start = text.len().saturating_sub(SHOWN);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at));
    &text[start.unwrap_or(0)..]
}

#[derive(Debug, Default)]
struct Seen {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    open: u8,
    status: Option<ExitStatus>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A panic in another thread of the test is reported by that thread.
        self.seen.lock().unwrap_or_else(|error| error.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A process that runs, in a process group of its own; killed when dropped.
#[derive(Debug)]
pub struct Running {
    line: String,
    pid: Pid,
    stdin: Option<ChildStdin>,
    shared: Arc<Shared>,
    started: Instant,
}

impl Running {
    /// Starts a command with pipes at its three standard streams.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(mut command: Command, line: &str) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
        let shared = Arc::new(Shared::default());
        shared.lock().open = 2;
        let pid = Pid::from_raw(child.id().cast_signed());
        if let Some(stdout) = child.stdout.take() {
            read(pid, stdout, shared.clone(), |seen| &mut seen.stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            read(pid, stderr, shared.clone(), |seen| &mut seen.stderr);
        }
        let stdin = child.stdin.take();
        wait(child, shared.clone());
        Running {
            line: line.to_owned(),
            pid,
            stdin,
            shared,
            started: Instant::now(),
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Writes to standard input.
    ///
    /// # Panics
    /// When the process does not read any more.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin
            .write_all(bytes)
            .and_then(|()| stdin.flush())
            .unwrap_or_else(|error| panic!("cannot write to `{}`: {error}", self.line));
    }

    /// Closes standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal to the process alone, not to its group.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal `{}`: {error}", self.line));
    }

    /// Waits until standard output contains a text.
    ///
    /// # Panics
    /// When the process ends, or the deadline passes, without it.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str) {
        let found = |seen: &Seen| String::from_utf8_lossy(&seen.stdout).contains(text);
        let seen = self.wait_until(|seen| found(seen) || (seen.status.is_some() && seen.open == 0));
        assert!(
            found(&seen),
            "no {text:?} from `{}`:\n{}\n--- stderr\n{}",
            self.line,
            end_of(&String::from_utf8_lossy(&seen.stdout)),
            end_of(&String::from_utf8_lossy(&seen.stderr))
        );
    }

    /// Whether standard output contains a text by now.
    pub fn has_stdout(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.shared.lock().stdout).contains(text)
    }

    /// Waits until standard error contains a text.
    ///
    /// # Panics
    /// When the process ends, or the deadline passes, without it.
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str) {
        let found = |seen: &Seen| String::from_utf8_lossy(&seen.stderr).contains(text);
        let seen = self.wait_until(|seen| found(seen) || (seen.status.is_some() && seen.open == 0));
        let said = String::from_utf8_lossy(&seen.stderr);
        assert!(
            found(&seen),
            "no {text:?} from `{}`:\n{}",
            self.line,
            end_of(&said)
        );
    }

    /// Waits until the process ends although its standard input is open.
    ///
    /// # Panics
    /// When the deadline passes first.
    #[track_caller]
    pub fn wait_for_end(&self) {
        drop(self.wait_until(|seen| seen.status.is_some()));
    }

    /// Closes standard input and waits for the end of the process and of its output.
    ///
    /// # Panics
    /// When the deadline passes first: it hangs, or left a process that keeps its output open.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        self.close_stdin();
        let seen = self.wait_until(|seen| seen.status.is_some() && seen.open == 0);
        let status = seen.status.expect("waited for");
        let outcome = Outcome {
            line: self.line.clone(),
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&seen.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&seen.stderr).into_owned(),
            took: self.started.elapsed(),
        };
        drop(seen);
        outcome
    }

    #[track_caller]
    fn wait_until(&self, done: impl Fn(&Seen) -> bool) -> MutexGuard<'_, Seen> {
        let mut deadline = Instant::now() + DEADLINE;
        let mut seen = self.shared.lock();
        while !done(&seen) {
            if seen.status.is_some() {
                deadline = deadline.min(Instant::now() + AFTERMATH);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let state = match seen.status {
                    None => "hangs",
                    Some(_) => "ended, but something keeps its output open",
                };
                panic!(
                    "`{}` {state}\n--- stdout\n{}\n--- stderr\n{}",
                    self.line,
                    end_of(&String::from_utf8_lossy(&seen.stdout)),
                    end_of(&String::from_utf8_lossy(&seen.stderr))
                );
            }
            seen = match self.shared.changed.wait_timeout(seen, left) {
                Ok((seen, _)) => seen,
                Err(error) => error.into_inner().0,
            };
        }
        seen
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shared.lock().status.is_none() {
            // Gone already is as good.
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
    }
}

fn read(
    group: Pid,
    mut stream: impl Read + Send + 'static,
    shared: Arc<Shared>,
    buffer: fn(&mut Seen) -> &mut Vec<u8>,
) {
    thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(length @ 1..) = stream.read(&mut chunk) {
            shared.change(|seen| buffer(seen).extend_from_slice(&chunk[..length]));
            if buffer(&mut shared.lock()).len() > OUTPUT_LIMIT {
                // Gone already is as good.
                let _ = killpg(group, Signal::SIGKILL);
                break;
            }
        }
        shared.change(|seen| seen.open -= 1);
    });
}

fn wait(mut child: Child, shared: Arc<Shared>) {
    thread::spawn(move || {
        let status = child.wait().expect("the child is ours");
        shared.change(|seen| seen.status = Some(status));
    });
}

/// Waits until `check` gives a value, for things that have no event to wait for.
///
/// # Panics
/// When `deadline` passes.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
