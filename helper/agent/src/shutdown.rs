//! The end of the guest, in order: the image's init or its entry point, processes, disks, power.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::role::{Role, role};
use crate::serve::Agent;
use crate::{console, image_file, init_signal, sys};

/// How long the kernel may take to end killed processes.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// How long the host may take to read the last answers.
const FLUSH_GRACE: Duration = Duration::from_millis(500);
/// Until init is asked again: the kernel drops signals that process 1 does not listen to yet (kill(2)), and
/// nothing tells when it does. To be asked twice changes nothing for it.
const INIT_PAUSE: Duration = Duration::from_secs(1);

/// Ends every process, makes the disks clean and powers off. `disks` are directories on the file
/// systems that no path leads to any more.
pub(crate) async fn run(agent: &Rc<Agent>, grace: Duration, disks: &[File]) {
    let deadline = Instant::now() + grace;
    agent.workers.close();
    if role() == Role::Beside {
        end_by_init(agent, deadline).await;
        console::say("the image's init did not end the guest in time");
    } else {
        end_entrypoint(agent, deadline).await;
    }
    let processes = &agent.processes;
    signal_everything(agent, Signal::SIGTERM);
    signal_everything(agent, Signal::SIGCONT);
    // Shells on a terminal ignore SIGTERM and end on SIGHUP.
    processes.signal_all(Signal::SIGHUP);
    if timeout_at(deadline, processes.all_gone()).await.is_err() || role() == Role::Beside {
        signal_everything(agent, Signal::SIGKILL);
        if timeout(KILL_GRACE, processes.all_gone()).await.is_err() {
            console::say("some processes did not end when killed");
        }
    }
    if timeout(KILL_GRACE, agent.workers.all_gone()).await.is_err() {
        console::say("a copy did not end");
    }
    let _ = timeout(FLUSH_GRACE, agent.flushed()).await;
    if role() != Role::Test {
        make_disks_clean(disks);
        if agent.reboots() {
            console::restart();
        }
        console::power_off();
    }
}

/// Asks process 1 to power the guest off; returns only at the deadline.
async fn end_by_init(agent: &Rc<Agent>, deadline: Instant) {
    let processes = &agent.processes;
    for signal in [Signal::SIGTERM, Signal::SIGCONT, Signal::SIGHUP] {
        processes.signal_all(signal);
    }
    let _ = timeout(FLUSH_GRACE, agent.flushed()).await;
    let asking = async {
        match init_signal::power_off() {
            Some(number) => loop {
                if let Err(error) = sys::send_signal(Pid::from_raw(1), number) {
                    console::say(&format!("asking init to power off: {error}"));
                }
                sleep(INIT_PAUSE).await;
            },
            None => agent.run_power_off(),
        }
        std::future::pending::<()>().await;
    };
    let _ = timeout_at(deadline, asking).await;
}

/// The entry point hears its own signal first, alone, as an OCI runtime would send it.
async fn end_entrypoint(agent: &Rc<Agent>, deadline: Instant) {
    let Some(entrypoint) = agent.entrypoint() else {
        return;
    };
    if let Ok(pid) = i32::try_from(entrypoint.pid)
        && sys::send_signal(Pid::from_raw(pid), entrypoint.stop_signal).is_ok()
    {
        let now = Instant::now();
        let most = now + deadline.saturating_duration_since(now) * 3 / 4;
        let _ = timeout_at(most, entrypoint.ended.wait()).await;
    }
}

/// In tests the agent is not PID 1, and "every process" would be the machine's.
fn signal_everything(agent: &Agent, signal: Signal) {
    if role() == Role::Test {
        agent.processes.signal_all(signal);
    } else {
        // Spares process 1 and ourselves (kill(2)).
        let _ = kill(Pid::from_raw(-1), signal);
    }
}

fn make_disks_clean(disks: &[File]) {
    nix::unistd::sync();
    let mounts = image_file::read(Path::new("/proc/self/mounts")).unwrap_or_default();
    let root = std::iter::once("/".to_owned());
    let hidden = disks
        .iter()
        .map(|disk| format!("/proc/self/fd/{}", disk.as_raw_fd()));
    for path in writable_disks(&mounts)
        .into_iter()
        .chain(root)
        .chain(hidden)
    {
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

/// See `boot::state`.
const BOUND: [&str; 3] = [
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
];

/// Where disks are mounted below the root, what is mounted last first (fstab(5) on the form of a line).
/// Those that carry the root itself come after it, by their own descriptors.
fn writable_disks(mounts: &str) -> Vec<String> {
    let writable = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, path) = (fields.next()?, fields.next()?);
        let options = fields.nth(1)?;
        // Binds of the data disk, which the root still writes to.
        let ours = path.starts_with("/run/initramfs/") || BOUND.contains(&path);
        let disk = device.starts_with("/dev/") && options.split(',').any(|option| option == "rw");
        (disk && path != "/" && !ours).then(|| unescaped(path))
    });
    let mut writable: Vec<String> = writable.collect();
    writable.reverse();
    writable
}

/// `\\040` is a space.
fn unescaped(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let digits = after.get(..3).and_then(|d| u8::from_str_radix(d, 8).ok());
        match digits {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_below_the_root_are_found_in_order() {
        let mounts = "overlay / overlay rw 0 0\n/dev/vdb /root ext4 rw,relatime 0 0\n\
            /dev/vdc /lib/modules ext4 ro 0 0\n/dev/vdd /root/my\\040disk ext4 rw 0 0\n\
            tmpfs /run tmpfs rw 0 0\n/dev/vdb / ext4 rw 0 0\nbroken\n";
        assert_eq!(writable_disks(mounts), ["/root/my disk", "/root"]);
    }
}
