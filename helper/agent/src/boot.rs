//! PID 1's way from the kernel's first exec to serving calls, stage by stage.
//!
//! A stage that fails ends the boot: the reason goes to the console and to the host, and the guest
//! powers off. Everything up to [`root::enter`] happens in the initramfs, everything later inside
//! the image, through the agent's own chroot, so that a hostile image's links lead nowhere else.

mod beside;
mod disk;
mod failure;
mod files;
pub(crate) mod grow;
mod init;
mod mapper;
mod modules;
mod mounts;
mod network;
mod root;
mod seed;
mod share;
mod state;
mod store;
mod uevent;
mod virtio_port;
mod volume;

use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use banger_wire::config::{self, GuestConfig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use tokio::task::{LocalSet, spawn_local};

use self::root::Hidden;
use crate::port::Port;
use crate::role::{self, Role};
use crate::serve::Agent;
use crate::signals::Signals;
use crate::{console, loopback, runtime, shutdown, sys};

/// First argument of the agent beside the image's init; descriptors follow.
pub(crate) const BESIDE: &str = "beside";

/// What processes have to end themselves when the guest itself asks for its end.
const OWN_SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// After the guest is ready; then its first commands have begun, mostly.
const SETTLED: Duration = Duration::from_secs(1);

/// Why the boot cannot go on: what failed, on what, and why.
#[derive(Debug)]
pub(crate) struct BootError(String);

impl std::fmt::Display for BootError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds what was being done to an error.
trait While<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, BootError>;
}

impl<T, E: std::fmt::Display> While<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, BootError> {
        self.map_err(|error| BootError(format!("{}: {error}", what())))
    }
}

/// Boots and serves until the guest's end; returns only when the kernel refuses to power off.
pub(crate) fn run() {
    console::power_off_on_panic();
    if let Err(error) = boot() {
        let message = format!("boot failed: {error}");
        console::say(&message);
        failure::report(message);
    }
    console::power_off();
}

fn boot() -> Result<(), BootError> {
    mounts::early()?;
    console::open();
    protect_self();
    let config = read_config()?;
    modules::load(&config)?;
    prepare_kernel(&config);
    let hidden = root::enter(&config)?;
    let init = init::choose(&config.init)?;
    let systemd = init.as_ref().is_some_and(|argv| init::is_systemd(&argv[0]));
    files::write(&config, systemd);
    network::configure(config.network.as_ref())
        .map_err(|error| BootError(format!("network: {error}")))?;
    match init {
        None => {
            let runtime = runtime().context(|| "starting the runtime".to_owned())?;
            LocalSet::new().block_on(&runtime, serve(config, &hidden))
        }
        Some(argv) => {
            loopback::ensure();
            // The agent is the guest's only way to the host: the OOM killer must spare it, as it spares process 1.
            let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
            match beside::hand_over(&config, &hidden, &argv)? {}
        }
    }
}

/// The agent's part when the image's init is process 1: serves until the guest's end.
pub(crate) fn run_beside(descriptors: [&str; 3]) {
    role::set_beside();
    console::open();
    console::power_off_on_panic();
    sys::ignore_signals();
    let served = beside::take_over(descriptors).and_then(|passed| {
        let Some(passed) = passed else { return Ok(()) };
        init::wait_until_it_listens(&passed.config.init);
        let runtime = runtime().context(|| "starting the runtime".to_owned())?;
        LocalSet::new().block_on(&runtime, serve(passed.config, &passed.hidden))
    });
    if let Err(error) = served {
        let message = format!("boot failed: {error}");
        console::say(&message);
        failure::report(message);
        console::power_off();
    }
}

fn read_config() -> Result<GuestConfig, BootError> {
    let text = std::fs::read(config::PATH).context(|| format!("reading {}", config::PATH))?;
    let config: GuestConfig =
        serde_json::from_slice(&text).context(|| format!("parsing {}", config::PATH))?;
    if config.protocol == banger_wire::PROTOCOL {
        Ok(config)
    } else {
        Err(BootError(format!(
            "{} is of protocol {}, this agent speaks {}",
            config::PATH,
            config.protocol,
            banger_wire::PROTOCOL
        )))
    }
}

fn protect_self() {
    let limit = sys::OPEN_FILES_HARD;
    let _ = setrlimit(Resource::RLIMIT_NOFILE, limit, limit);
    // Ctrl-Alt-Del becomes SIGINT, which shuts down in order.
    let _ = nix::sys::reboot::set_cad_enabled(false);
}

/// Randomness, clock and name. Their failure makes a worse guest, not a broken one.
fn prepare_kernel(config: &GuestConfig) {
    let entropy = decode_hex(&config.entropy);
    let seeded = File::options()
        .write(true)
        .open("/dev/urandom")
        .and_then(|urandom| sys::add_entropy(&urandom, &entropy));
    if let Err(error) = seeded {
        console::say(&format!("could not seed the random pool: {error}"));
    }
    let realtime = nix::time::ClockId::CLOCK_REALTIME;
    let host = Duration::from_nanos(config.clock_ns);
    if nix::time::clock_gettime(realtime).is_ok_and(|now| Duration::from(now) < host)
        && let Err(error) = nix::time::clock_settime(realtime, host.into())
    {
        console::say(&format!("could not set the clock: {error}"));
    }
    if let Err(error) = nix::unistd::sethostname(&config.hostname) {
        console::say(&format!("could not set the host name: {error}"));
    }
}

fn decode_hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

async fn serve(config: GuestConfig, hidden: &Hidden) -> Result<(), BootError> {
    let file = virtio_port::open()?;
    let port = Port::serial(file.into()).context(|| "watching the port to the host".to_owned())?;
    let growing = grow::Growing::of(&config.root, hidden)
        .context(|| "opening the root's file system".to_owned())?;
    let agent = Agent::new(config.process, config.ssh, growing);
    let processes = Rc::clone(&agent.processes);
    spawn_local(async move { processes.reap().await });
    spawn_local(Rc::clone(&agent).push_events());
    if role::role() == Role::Init {
        spawn_local(obey_signals(Rc::clone(&agent)));
        if !config.entrypoint.is_empty() {
            let (argv, stop) = (config.entrypoint, config.stop_signal);
            spawn_local(Rc::clone(&agent).run_entrypoint(argv, stop));
        }
    }
    let serving = async {
        loop {
            let error = agent.serve(&port).await;
            // A host that broke the protocol may begin anew.
            console::say(&error.to_string());
            if let Err(error) = port.changed().await {
                return BootError(format!("the port to the host: {error}"));
            }
        }
    };
    let freeing = async {
        agent.flushed().await;
        // Nobody waits for it, and the first commands come at once.
        tokio::time::sleep(SETTLED).await;
        hidden.free_initramfs();
        std::future::pending().await
    };
    let stopping = async {
        let grace = agent.stop_requested().await;
        shutdown::run(&agent, grace, &hidden.disks).await;
    };
    tokio::select! {
        error = serving => Err(error),
        () = freeing => Ok(()),
        () = stopping => Ok(()),
    }
}

/// The signals by which `poweroff`, `halt` and Ctrl-Alt-Del reach PID 1 (busybox, kernel).
async fn obey_signals(agent: Rc<Agent>) -> io::Result<()> {
    // Halt, power off, Ctrl-Alt-Del, reboot.
    let signals = Signals::new(&[
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGINT,
        Signal::SIGTERM,
    ])?;
    loop {
        if signals.next().await? == Signal::SIGTERM {
            agent.reboot_in_the_end();
        }
        agent.request_stop(OWN_SHUTDOWN_GRACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_skips_what_is_not() {
        assert_eq!(decode_hex("00fFzz10a"), [0, 255, 16]);
        assert!(decode_hex("").is_empty());
    }
}
