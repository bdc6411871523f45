//! `banger-monitor` supervises one VM from its launch to its exit record.
//!
//! One thread, one epoll loop, no timer that ticks: while nothing happens it makes no system call.
//! It holds `alive.lock` from before the first effect until after the last one, and so does the VMM.

mod accept;
mod agent;
mod buffer;
mod client;
mod clients;
mod clock;
mod console;
mod console_times;
mod control;
mod event_loop;
mod exec;
mod exit;
mod files;
mod growth;
mod guest;
mod idle;
mod launch;
mod lifecycle;
mod lock;
mod log;
mod process;
mod publish;
mod qmp;
mod share;
mod socket;
mod statistics;
mod stop;
mod teardown;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use banger_failpoint::{passed, point};
use banger_wire::monitor::{Launch, LaunchReply};

use crate::launch::LaunchError;

const USAGE: &str = "banger-monitor reads one JSON launch specification on standard input; \
                     banger-vm starts it. It is not run by hand (except with --version)";
const MAX_SPECIFICATION: u64 = 1 << 20;
const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_BUSY: u8 = 4;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(first) = arguments.first() else {
        return supervise();
    };
    match first.to_str() {
        Some("--version") if arguments.len() == 1 => {
            let version = concat!("banger-monitor ", env!("CARGO_PKG_VERSION"), "\n");
            match io::stdout().write_all(version.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(EXIT_FAILED),
            }
        }
        Some(exec::MODE) => exec::run(&arguments[1..], exec::become_vmm),
        Some(share::MODE) => exec::run(&arguments[1..], share::become_server),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {USAGE}");
    ExitCode::from(EXIT_USAGE)
}

fn supervise() -> ExitCode {
    if io::stdin().is_terminal() {
        return usage();
    }
    let mut vm = match read_specification().and_then(|launch| {
        point("monitor.isolate")
            .and_then(|()| process::isolate(&launch.descriptors))
            .map_err(LaunchError::Isolate)?;
        launch::launch(launch)
    }) {
        Ok(vm) => vm,
        Err(LaunchError::AlreadyRunning) => {
            return answer(&LaunchReply::AlreadyRunning, EXIT_BUSY);
        }
        Err(LaunchError::PortInUse(address)) => {
            return answer(&LaunchReply::PortInUse { address }, EXIT_BUSY);
        }
        Err(error) => {
            let message = log::chain(&error);
            return answer(&LaunchReply::Failed { message }, EXIT_FAILED);
        }
    };
    passed("monitor.launched");
    // A client that has gone away meanwhile does not concern the VM.
    let _ = write_reply(&LaunchReply::Started(vm.handles.clone()));
    if let Err(error) = process::release_stdio(vm.log.file()) {
        vm.log.line(format_args!(
            "cannot let go of the standard streams: {error}"
        ));
    }
    passed("monitor.detached");
    event_loop::run(vm)
}

fn read_specification() -> Result<Launch, LaunchError> {
    let mut text = Vec::new();
    io::stdin()
        .take(MAX_SPECIFICATION)
        .read_to_end(&mut text)
        .map_err(LaunchError::ReadSpecification)?;
    serde_json::from_slice(&text).map_err(LaunchError::Specification)
}

fn answer(reply: &LaunchReply, code: u8) -> ExitCode {
    let _ = write_reply(reply);
    ExitCode::from(code)
}

fn write_reply(reply: &LaunchReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut stdout = io::stdout();
    stdout.write_all(&line)?;
    stdout.flush()
}
