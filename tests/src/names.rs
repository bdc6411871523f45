//! The server of names in a namespace that plays the host.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::{Netns, Outcome, Running, Sandbox};

/// A server of names.
#[derive(Debug)]
pub struct NameServer {
    running: Running,
}

impl NameServer {
    /// Where the host asks.
    pub const HOST: &str = "127.83.0.53";

    /// Starts it where systemd would; it reads the names of a daemon of the same sandbox, and asks the
    /// resolvers of [`NameServer::resolv_conf`].
    ///
    /// # Panics
    /// When it does not serve.
    pub fn start(sandbox: &Sandbox, netns: &Netns) -> NameServer {
        let running = sandbox.start(&format!(
            "exec {} {} dns serve --listen {} --listen-guests 10.83.0.1 --resolv-conf {}",
            netns.enter(),
            sandbox.fixtures().bin().join("banger-net").display(),
            NameServer::HOST,
            NameServer::resolv_conf(sandbox).display(),
        ));
        running.wait_for_stderr("banger-net: serving names at");
        NameServer { running }
    }

    /// The resolvers of the host that the namespace plays.
    pub fn resolv_conf(sandbox: &Sandbox) -> PathBuf {
        sandbox.path("resolv.conf")
    }

    /// The process.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Kills it as the kernel would, and waits for its end.
    pub fn kill(self) -> Outcome {
        self.running.signal(Signal::SIGKILL);
        self.running.finish()
    }
}

/// Runs a command line in a namespace, where `/etc/resolv.conf` names these servers.
///
/// # Panics
/// When the sandbox cannot be written.
#[track_caller]
pub fn resolving(sandbox: &Sandbox, netns: &Netns, servers: &[&str], line: &str) -> Outcome {
    let lines: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    let file = sandbox.path(&format!("resolv.conf-{}", servers.join("-")));
    fs::write(&file, lines).expect("the sandbox can be written");
    let script = "mount --bind \"$0\" /etc/resolv.conf && eval \"exec $1\"";
    sandbox.sh(&format!(
        "{} unshare --mount sh -c '{script}' {} \"{line}\"",
        netns.enter(),
        file.display(),
    ))
}
