//! An agent in serve mode on this machine, behind a tiny monitor.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use lib_guest::Guest;

use crate::monitor::Monitor;

/// One agent; killed with everything it started when dropped.
pub(crate) struct Harness {
    agent: Child,
    directory: tempfile::TempDir,
    /// What the agent said on the events port.
    pub(crate) events: Receiver<Vec<u8>>,
}

impl Harness {
    pub(crate) fn new() -> Harness {
        Harness::start(None)
    }

    /// With an SSH server, configured by JSON as at a boot.
    pub(crate) fn with_ssh(ssh: &str) -> Harness {
        Harness::start(Some(ssh))
    }

    fn start(ssh: Option<&str>) -> Harness {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_banger-agent"))
            .args(["serve", "--fd", "0"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .envs(ssh.map(|ssh| ("BANGER_AGENT_SSH", ssh)))
            .spawn()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
        let (events, received) = channel();
        std::thread::spawn(move || Monitor::new(ours, listener, events).run());
        Harness {
            agent,
            directory,
            events: received,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) fn guest(&self) -> Guest {
        Guest::new(self.socket())
    }

    /// Its process, and those that it started.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let pid = self.agent.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        std::iter::once(pid).chain(children).collect()
    }

    /// Kills the agent alone, as the OOM killer would.
    pub(crate) fn kill(&mut self) {
        self.agent.kill().unwrap();
    }

    /// Waits for the agent's own end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.agent.wait().unwrap()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}
