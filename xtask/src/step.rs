//! Steps: printed, timed, ended by Ctrl-C without skipping what cleans up after them.

use std::error::Error;
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Process ids of the commands under way; never one that was waited for.
static CHILDREN: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Signals no longer end this process but the commands it runs; what called them fails, and
/// cleans up. Call it before any thread is made: threads inherit the mask, commands do not.
pub(crate) fn watch_signals() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            // A terminal's Ctrl-C went to all of our own process group already.
            let sent = signal == Signal::SIGINT && std::io::stdin().is_terminal();
            for pid in children().iter().copied().map(Pid::from_raw) {
                let leads_a_group = killpg(pid, signal).is_ok();
                if !leads_a_group && !sent {
                    // A child that ended already has what it was sent for.
                    let _ = kill(pid, signal);
                }
            }
        }
    });
    Ok(())
}

fn children() -> std::sync::MutexGuard<'static, Vec<i32>> {
    CHILDREN.lock().unwrap_or_else(|error| error.into_inner())
}

/// A signal asked us to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Fails after a signal.
pub(crate) fn go_on() -> Result<()> {
    if interrupted() {
        Err("interrupted".into())
    } else {
        Ok(())
    }
}

/// As [`always_timed`], but not after a signal.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    go_on()?;
    always_timed(what, work)
}

/// Prints what is done and, at its end, how long it took.
pub(crate) fn always_timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {what}");
    let start = Instant::now();
    let value = work()?;
    println!("   {:.1} s: {what}", start.elapsed().as_secs_f64());
    Ok(value)
}

/// A command line as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name();
    let words = program.into_iter().chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Prints a command, runs it, and returns its status.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    println!("$ {}", line(command));
    wait(command)
}

/// Prints a command, runs it, and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    succeeded(command, status)
}

/// Runs a command and returns its standard output; fails, with its standard error, when it does.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    go_on()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| unstarted(command, &error))?;
    let child = Watched::new(child);
    let output = child.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "`{}`: {}\n{}",
            line(command),
            output.status,
            said.trim_end()
        )
        .into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command, its standard error going where ours goes; returns its standard output.
pub(crate) fn captured(command: &mut Command) -> Result<String> {
    go_on()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| unstarted(command, &error))?;
    let output = Watched::new(child).output()?;
    go_on()?;
    succeeded(command, output.status)?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command without printing it.
pub(crate) fn wait(command: &mut Command) -> Result<ExitStatus> {
    go_on()?;
    let child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| unstarted(command, &error))?;
    let status = Watched::new(child).status()?;
    go_on()?;
    Ok(status)
}

fn unstarted(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start `{}`: {error}", line(command))
}

/// Fails when the status says so.
pub(crate) fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{}`: {status}", line(command)).into())
    }
}

struct Watched(Option<Child>);

impl Watched {
    fn new(child: Child) -> Watched {
        children().push(child.id().cast_signed());
        Watched(Some(child))
    }

    fn status(mut self) -> Result<ExitStatus> {
        let mut child = self.0.take().ok_or("a child is waited for once")?;
        let pid = child.id().cast_signed();
        let status = child.wait();
        end_of_group(pid);
        children().retain(|other| *other != pid);
        Ok(status?)
    }

    fn output(mut self) -> Result<std::process::Output> {
        let child = self.0.take().ok_or("a child is waited for once")?;
        let pid = child.id().cast_signed();
        let output = child.wait_with_output();
        end_of_group(pid);
        children().retain(|other| *other != pid);
        Ok(output?)
    }
}

/// After a signal, the other members of a shell's pipeline may still be at work when the shell is
/// gone: they end before anything is cleaned up.
fn end_of_group(leader: i32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while interrupted() && killpg(Pid::from_raw(leader), None).is_ok() && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}
