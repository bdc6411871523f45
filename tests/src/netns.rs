//! A network namespace that a test makes, and the daemon in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, Running, Sandbox};

/// A network namespace with nothing but loopback; it goes with its last process.
#[derive(Debug)]
pub struct Netns {
    holder: Running,
}

impl Netns {
    /// Makes one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(sandbox: &Sandbox) -> Netns {
        let holder =
            sandbox.start("exec unshare --net sh -c 'ip link set lo up && echo made && exec cat'");
        holder.wait_for_stdout("made\n");
        Netns { holder }
    }

    /// For nsenter(1) and ip(8).
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// What enters it, as the beginning of a command line.
    pub fn enter(&self) -> String {
        format!("nsenter --net=/proc/{}/ns/net", self.pid())
    }

    /// Runs a command line without shell words in it.
    pub fn run(&self, sandbox: &Sandbox, line: &str) -> Outcome {
        sandbox.sh(&format!("{} {line}", self.enter()))
    }

    /// All interfaces with their addresses, and all rules, as JSON; handles and counters, which count
    /// what was, are left out.
    pub fn state(&self, sandbox: &Sandbox) -> String {
        let links = self.run(sandbox, "ip -j address").ok().to_owned();
        let rules = self.run(sandbox, "nft -j list ruleset").ok().to_owned();
        let forwarding = self.run(sandbox, "cat /proc/sys/net/ipv4/ip_forward");
        let mut value = serde_json::json!([
            parsed(&links),
            parsed(&rules),
            forwarding.ok().trim().to_owned()
        ]);
        strip(&mut value);
        value.to_string()
    }
}

fn parsed(text: &str) -> serde_json::Value {
    match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => panic!("{text:?} is no JSON: {error}"),
    }
}

/// Numbers that grow with each attempt.
fn strip(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for counted in ["handle", "ifindex", "metainfo"] {
                fields.remove(counted);
            }
            fields.values_mut().for_each(strip);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// A daemon in a namespace.
#[derive(Debug)]
pub struct Netd {
    running: Running,
    socket: PathBuf,
    state: PathBuf,
}

impl Netd {
    /// Starts it with its socket where the sandbox's commands look for it.
    ///
    /// # Panics
    /// When it does not serve.
    pub fn start(sandbox: &Sandbox, netns: &Netns, arguments: &str) -> Netd {
        Netd::start_at(sandbox, netns, &sandbox.netd_socket(), "", arguments)
    }

    /// As [`Netd::start`], with a socket elsewhere and variables (`NAME=value …`) in its environment.
    ///
    /// # Panics
    /// When it does not serve.
    pub fn start_at(
        sandbox: &Sandbox,
        netns: &Netns,
        socket: &Path,
        variables: &str,
        arguments: &str,
    ) -> Netd {
        let state = sandbox.path("netd");
        let line = format!(
            "{variables} exec {} {} --listen {} --state {} {arguments}",
            netns.enter(),
            Netd::program(sandbox).display(),
            socket.display(),
            state.display(),
        );
        let running = sandbox.start(&line);
        running.wait_for_stderr("banger-netd: serving\n");
        Netd {
            running,
            socket: socket.to_owned(),
            state,
        }
    }

    /// The executable.
    pub fn program(sandbox: &Sandbox) -> PathBuf {
        sandbox.fixtures().libexec().join("banger-netd")
    }

    /// A command that serves one connection on a descriptor that is added to it.
    pub fn child(sandbox: &Sandbox, netns: &Netns, state: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", netns.pid()))
            .arg(Netd::program(sandbox))
            .arg("--state")
            .arg(sandbox.path(state));
        command
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its journal and names.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The process.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Waits for its end, which somebody has asked for.
    pub fn finish(self) -> Outcome {
        self.running.finish()
    }

    /// Kills it as the kernel would, and waits for its end.
    pub fn kill(self) {
        self.running.signal(nix::sys::signal::Signal::SIGKILL);
        self.running.finish();
    }
}
