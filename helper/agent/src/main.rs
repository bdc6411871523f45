//! The guest's agent: `/init` of the initramfs, PID 1 of the guest, and the host's hand in it.
//!
//! It never ends and never panics as PID 1, because the kernel panics when PID 1 ends; what cannot
//! go on is said on the console and to the host, and the guest powers off.

mod account;
mod boot;
mod caller;
mod channel;
mod clock;
mod command;
mod console;
mod copy;
mod exec;
mod helper;
mod image_file;
mod init_signal;
mod loopback;
mod port;
mod process;
mod relay;
mod role;
mod serve;
mod sftp;
mod shutdown;
mod signals;
mod sockets;
mod spawn;
mod splice;
mod ssh;
mod stats;
mod sys;
mod tcp;
mod watch;
mod worker;
mod workspace;

use std::io::Write;
use std::os::fd::RawFd;
use std::process::ExitCode;

use banger_wire::config::{Process, Ssh};
use tokio::task::{LocalSet, spawn_local};

use crate::port::Port;
use crate::serve::{Agent, VERSION};

fn main() -> ExitCode {
    if nix::unistd::getpid().as_raw() == 1 {
        boot::run();
        // Reached only when the kernel refuses to power off.
        loop {
            nix::unistd::pause();
        }
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["--version" | "-V"] => {
            writeln!(std::io::stdout(), "banger-agent {VERSION}").map_err(|error| error.to_string())
        }
        // The agent starts itself like these, as the user of the watch or workspace.
        [watch::MODE] => return watch::helper(),
        [workspace::MODE] => return workspace::helper(),
        [boot::BESIDE, config, initramfs, executed] => {
            boot::run_beside([config, initramfs, executed]);
            return ExitCode::FAILURE;
        }
        ["serve", "--fd", number] => match number.parse() {
            Ok(number) => serve(number, Process::default()),
            Err(_) => Err(format!("not a descriptor: {number}")),
        },
        // How the agent starts itself: for an SSH connection, and for a file transfer in one.
        ["ssh"] => ssh::main(),
        ["sftp"] => sftp::main(),
        _ => Err("this is the init of a banger guest; it runs as process 1 only".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "error: {message}");
            ExitCode::from(2)
        }
    }
}

/// For tests: serves one connection on a passed descriptor, without any of the boot.
fn serve(number: RawFd, defaults: Process) -> Result<(), String> {
    let descriptor =
        sys::passed_descriptor(number).map_err(|e| format!("descriptor {number}: {e}"))?;
    let runtime = runtime().map_err(|e| format!("runtime: {e}"))?;
    let serving = async {
        let port = Port::socket(descriptor).map_err(|e| format!("descriptor {number}: {e}"))?;
        let agent = Agent::new(defaults, test_ssh(), None);
        let processes = std::rc::Rc::clone(&agent.processes);
        spawn_local(async move { processes.reap().await });
        spawn_local(std::rc::Rc::clone(&agent).push_events());
        tokio::select! {
            _ = agent.serve(&port) => shutdown::run(&agent, std::time::Duration::from_secs(2), &[]).await,
            () = async {
                let grace = agent.stop_requested().await;
                shutdown::run(&agent, grace, &[]).await;
            } => {}
        }
        Ok(())
    };
    LocalSet::new().block_on(&runtime, serving)
}

/// For tests: `BANGER_AGENT_SSH` is what the boot configuration says about SSH.
fn test_ssh() -> Option<Ssh> {
    serde_json::from_str(&std::env::var("BANGER_AGENT_SSH").ok()?).ok()
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
