//! The end of the guest, in order: processes, disks, power.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::console;
use crate::serve::Agent;

/// How long the kernel may take to end killed processes.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// How long the host may take to read the last answers.
const FLUSH_GRACE: Duration = Duration::from_millis(500);

/// Ends every process, makes the disks clean and powers off. `disks` are directories on the file
/// systems that no path leads to any more.
pub(crate) async fn run(agent: &Rc<Agent>, grace: Duration, disks: &[File]) {
    let processes = &agent.processes;
    signal_everything(agent, Signal::SIGTERM);
    signal_everything(agent, Signal::SIGCONT);
    // Shells on a terminal ignore SIGTERM and end on SIGHUP.
    processes.signal_all(Signal::SIGHUP);
    if timeout(grace, processes.all_gone()).await.is_err() {
        signal_everything(agent, Signal::SIGKILL);
        if timeout(KILL_GRACE, processes.all_gone()).await.is_err() {
            console::say("some processes did not end when killed");
        }
    }
    let _ = timeout(FLUSH_GRACE, agent.flushed()).await;
    if is_init() {
        make_disks_clean(disks);
        console::power_off();
    }
}

fn is_init() -> bool {
    nix::unistd::getpid() == Pid::from_raw(1)
}

/// In tests the agent is not PID 1, and "every process" would be the machine's.
fn signal_everything(agent: &Agent, signal: Signal) {
    if is_init() {
        let _ = kill(Pid::from_raw(-1), signal);
    } else {
        agent.processes.signal_all(signal);
    }
}

fn make_disks_clean(disks: &[File]) {
    nix::unistd::sync();
    let root = std::iter::once("/".to_owned());
    let hidden = disks
        .iter()
        .map(|disk| format!("/proc/self/fd/{}", disk.as_raw_fd()));
    for path in root.chain(hidden) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        // A file system that stays busy is consistent after the sync; its journal covers the rest.
        if let Err(error) = mount(
            None::<&str>,
            path.as_str(),
            None::<&str>,
            flags,
            None::<&str>,
        ) {
            console::say(&format!("could not make {path} read-only: {error}"));
        }
    }
}
