//! What a command costs, with all that it starts: it runs below a small process of its own.
//!
//! That process adopts what the command leaves behind, so nothing that works on in the background
//! is free; and its memory is small, which matters because getrusage(2) counts the memory that a
//! child shared with its parent before execve(2).

use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::sys::wait::wait;
use serde_json::{Value, json};

use crate::step::{Result, output};

/// A command to run and measure; used by `bench` only.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What a command and all its descendants cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// Until the last descendant ended.
    pub(crate) wall: Duration,
    /// User and system time of all.
    pub(crate) cpu: Duration,
    /// Most bytes that one of them had resident.
    pub(crate) peak: u64,
    /// Bytes of the pages they made dirty.
    pub(crate) written: u64,
}

/// Lets so many bytes be used and freed, so that what is measured next gets memory that the machine has. A hypervisor
/// that takes free memory back (virtio 1.2, section 5.5.6.7, "Free Page Reporting") gives it again when it is touched,
/// and that may be slower than a disk.
pub(crate) fn touch_memory(bytes: usize) {
    drop(std::hint::black_box(vec![1_u8; bytes]));
}

/// Runs a command below a process of its own and returns its cost.
///
/// # Errors
/// When it fails; its standard error is in the message.
pub(crate) fn spent(command: &Command) -> Result<Cost> {
    let mut measured = Command::new(std::env::current_exe()?);
    measured
        .args(["measure", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => measured.env(name, value),
            None => measured.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        measured.current_dir(directory);
    }
    let said = output(&mut measured)?;
    let value: Value = serde_json::from_str(&said)?;
    let number = |name: &str| {
        let number = value[name].as_u64();
        number.ok_or_else(|| format!("the measuring process said no {name}: {said}"))
    };
    Ok(Cost {
        wall: Duration::from_micros(number("wall_us")?),
        cpu: Duration::from_micros(number("cpu_us")?),
        peak: number("peak_bytes")?,
        written: number("written_bytes")?,
    })
}

/// The measuring process: prints the cost of `args` as one line of JSON.
pub(crate) fn measure(args: &Args) -> Result<ExitCode> {
    let (program, rest) = args.command.split_first().ok_or("a command is required")?;
    set_child_subreaper(true)?;
    let start = Instant::now();
    let status = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    let wall = start.elapsed();
    if !status.success() {
        return Err(format!("{}: {status}", program.to_string_lossy()).into());
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    // getrusage(2): memory in KiB, blocks of 512 bytes.
    let cost = json!({
        "wall_us": u64::try_from(wall.as_micros())?,
        "cpu_us": micros(usage.user_time()) + micros(usage.system_time()),
        "peak_bytes": usage.max_rss() * 1024,
        "written_bytes": usage.block_writes() * 512,
    });
    println!("{cost}");
    Ok(ExitCode::SUCCESS)
}
