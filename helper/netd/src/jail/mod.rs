//! Jails: a VM's machine monitor as a user of its own, in a root of its own with nothing but its program and
//! libraries, without network, capabilities or a way to get any, in a cgroup of its own.
//!
//! The process that becomes it is this program again (`inside`), so that all steps between fork and exec are
//! ordinary code. Its parent is this daemon, but it needs none: it goes on when the daemon ends, and is found
//! again by its cgroup.

mod cgroup;
mod inside;
mod qemu;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use banger_failpoint::point;
use banger_proto::{Acceleration, Mac, Machine, VmId};
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::timeout;

pub(crate) use inside::enter;

use crate::turns::{Turn, Turns};
use crate::{audit, sys};

/// The word on the command line of a process that goes into a jail.
pub(crate) const WORD: &str = "--enter-jail";

/// A descriptor that a child inherits is not below this number.
const LOWEST: RawFd = 10;

/// The way into a jail takes milliseconds, and copies a kernel.
const PATIENCE: Duration = Duration::from_secs(60);

const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";
/// A directory that exists exactly where systemd is the service manager (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// What a machine monitor takes besides its guest's memory, in bytes; in emulation also for translated instructions, of
/// which QEMU keeps a gibibyte at most (tb-size).
const OVERHEAD: u64 = 512 << 20;
const TRANSLATED: u64 = 1 << 30;

/// Threads besides those of processors; QEMU's pool for disks has 64.
const THREADS: u32 = 128;

/// What the administrator says about jails.
#[derive(Debug, Clone)]
pub(crate) struct Jails {
    /// QEMU; absolute.
    pub(crate) qemu: PathBuf,
    /// A VM's uid is this and the number of its address in the pool.
    pub(crate) first_uid: u32,
    /// A directory of ours, on which each jail mounts its root in a namespace of its own.
    pub(crate) root: PathBuf,
    /// Whose jail is being started, or ended.
    pub(crate) turns: Turns,
}

/// What a machine is made of, each looked at before.
pub(crate) struct Parts {
    pub(crate) kernel: File,
    pub(crate) initrd: File,
    pub(crate) log: File,
    pub(crate) console: OwnedFd,
    pub(crate) qmp: OwnedFd,
    pub(crate) agent: OwnedFd,
    pub(crate) tap: Option<(OwnedFd, Mac)>,
    pub(crate) disks: Vec<File>,
}

/// What a jail may take of the host, kept by its cgroup: what was asked for and what that needs, so that a caller's
/// machines cannot be larger than they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ceiling {
    /// In bytes.
    memory: u64,
    tasks: u32,
}

impl Ceiling {
    fn of(machine: &Machine, parts: &Parts) -> io::Result<Ceiling> {
        let mut memory = (u64::from(machine.memory_mib) << 20) + OVERHEAD;
        if machine.acceleration == Acceleration::Emulation {
            memory += TRANSLATED;
        }
        // Copied into the jail's root, which is memory of the jail.
        for file in [&parts.kernel, &parts.initrd] {
            memory += file.metadata()?.len().min(inside::LONGEST);
        }
        Ok(Ceiling {
            memory,
            tasks: u32::from(machine.cpus) + THREADS,
        })
    }
}

/// For the process that becomes the machine monitor; numbers are of descriptors that it inherits.
#[derive(Debug, Serialize, Deserialize)]
struct Entrance {
    uid: u32,
    root: PathBuf,
    /// To enter; none where systemd made a scope.
    cgroup: Option<PathBuf>,
    program: PathBuf,
    arguments: Vec<String>,
    kernel: RawFd,
    initrd: RawFd,
    log: RawFd,
    /// What the machine monitor has, beside its standard streams.
    kept: Vec<RawFd>,
    kvm: bool,
}

/// Where a jail's processes are.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    /// In one that was made for it.
    Cgroup(&'a Path),
    /// In one that systemd makes.
    Scope(Ceiling),
}

impl Jails {
    /// Starts a machine in its VM's turn; returns what tells of its end.
    ///
    /// # Errors
    /// A program that others could have written; any step on the way. Then nothing runs.
    pub(crate) async fn launch(
        &self,
        _turn: &Turn,
        vm: &VmId,
        uid: u32,
        machine: &Machine,
        parts: &Parts,
    ) -> io::Result<OwnedFd> {
        refuse_unsafe(&self.qemu)?;
        match DirBuilder::new().mode(0o700).create(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let scope = Path::new(BOOTED).exists() && Path::new(SYSTEMD_RUN).exists();
        point("netd.jail.cgroup")?;
        let ceiling = Ceiling::of(machine, parts)?;
        let cgroup = match scope {
            true => None,
            false => Some(cgroup::make(vm, ceiling)?),
        };
        let place = cgroup
            .as_deref()
            .map_or(Place::Scope(ceiling), Place::Cgroup);
        let started = self.start(vm, uid, machine, parts, place).await;
        if started.is_err() {
            // The cause is told; an empty cgroup is taken again by the next launch.
            let _ = cgroup::remove(vm).await;
        }
        started
    }

    async fn start(
        &self,
        vm: &VmId,
        uid: u32,
        machine: &Machine,
        parts: &Parts,
        place: Place<'_>,
    ) -> io::Result<OwnedFd> {
        let kept = Inherited::of(parts)?;
        let entrance = Entrance {
            uid,
            root: self.root.clone(),
            cgroup: match place {
                Place::Cgroup(path) => Some(path.to_owned()),
                Place::Scope(_) => None,
            },
            program: self.qemu.clone(),
            arguments: qemu::arguments(vm, machine, &kept, parts.tap.as_ref().map(|(_, mac)| *mac)),
            kernel: kept.kernel.as_raw_fd(),
            initrd: kept.initrd.as_raw_fd(),
            log: kept.log.as_raw_fd(),
            kept: kept.numbers(),
            kvm: machine.acceleration == Acceleration::Kvm,
        };
        let (spec, mut writer) = io::pipe()?;
        writer.write_all(&serde_json::to_vec(&entrance)?)?;
        drop(writer);
        let (said, says) = io::pipe()?;
        let mut said = pipe::Receiver::from_owned_fd(said.into())?;
        let own = std::env::current_exe()?;
        let mut command = match place {
            Place::Cgroup(_) => Command::new(own),
            Place::Scope(ceiling) => in_scope(vm, &own, ceiling),
        };
        command
            .arg(WORD)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(spec))
            .stdout(Stdio::from(says.try_clone()?))
            .stderr(Stdio::from(says));
        point("netd.jail.spawn")?;
        let mut child = command.spawn()?;
        // They would hold the pipe open.
        drop((command, kept));
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let process = sys::pidfd_open(pid.cast_signed())?;
        // Its end is the end of the pipe, or the machine monitor in its place.
        let mut text = String::new();
        let said = match timeout(PATIENCE, said.read_to_string(&mut text)).await {
            Ok(read) => read.map(|_| text)?,
            Err(_) => "it does not end".to_owned(),
        };
        let said = match point("netd.jail.entered") {
            Ok(()) => said,
            Err(error) => error.to_string(),
        };
        if said.is_empty() {
            let (vm, turns) = (vm.clone(), self.turns.clone());
            tokio::task::spawn_local(async move {
                if let Ok(status) = child.wait().await {
                    audit::note(&format!("the jail of {vm} ended: {status}"));
                }
                // Not between the next launch and its first process. One that has a process again is in use.
                let _turn = turns.take(&vm).await;
                let _ = cgroup::remove(&vm).await;
            });
            return Ok(process);
        }
        // Gone already is as good.
        let _ = child.kill().await;
        let first = said.trim().lines().next().unwrap_or_default();
        Err(io::Error::other(first.to_owned()))
    }

    /// Whether something runs in a VM's jail.
    pub(crate) fn is_running(vm: &VmId) -> io::Result<bool> {
        Ok(!cgroup::processes(vm)?.is_empty())
    }

    /// Sends a signal to all that runs in a VM's jail. Returns whether there was something.
    pub(crate) fn signal(vm: &VmId, signal: i32) -> io::Result<bool> {
        let processes = cgroup::processes(vm)?;
        for process in &processes {
            point("netd.jail.signal")?;
            match sys::pidfd_send_signal(process, signal) {
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
                result => result?,
            }
        }
        Ok(!processes.is_empty())
    }

    /// VMs in whose jail something runs.
    pub(crate) fn running() -> io::Result<Vec<VmId>> {
        cgroup::occupied()
    }

    /// Ends all that runs in a VM's jail in its turn, and waits for it. Returns whether there was something.
    pub(crate) async fn end(_turn: &Turn, vm: &VmId) -> io::Result<bool> {
        let mut changed = false;
        while Jails::signal(vm, nix::libc::SIGKILL)? {
            changed = true;
            for process in cgroup::processes(vm)? {
                let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not end");
                timeout(PATIENCE, sys::ended(process))
                    .await
                    .map_err(|_| late())??;
            }
        }
        let _ = cgroup::remove(vm).await;
        Ok(changed)
    }
}

/// systemd-run executes the program in its own place, so process id and descriptors stay (systemd-run(1), --scope).
fn in_scope(vm: &VmId, program: &Path, ceiling: Ceiling) -> Command {
    let mut command = Command::new(SYSTEMD_RUN);
    command
        .args([
            "--system",
            "--scope",
            "--quiet",
            "--collect",
            "--slice=banger",
        ])
        .arg(format!("--unit={}", cgroup::unit(vm)))
        .arg(format!("--property=MemoryMax={}", ceiling.memory))
        .arg(format!("--property=MemorySwapMax={}", ceiling.memory))
        .arg(format!("--property=TasksMax={}", ceiling.tasks))
        .arg("--")
        .arg(program);
    command
}

/// What runs for a user must be what root installed.
fn refuse_unsafe(program: &Path) -> io::Result<()> {
    let real = fs::canonicalize(program)?;
    for place in real.ancestors() {
        let metadata = fs::metadata(place)?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0 {
            let message = format!(
                "{} belongs to others, or can be written by them",
                place.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
    }
    Ok(())
}

/// Copies of descriptors that survive exec(3). This process has one thread, and starts nothing else before they
/// are closed. The jail closes whatever else it inherits.
struct Inherited {
    kernel: OwnedFd,
    initrd: OwnedFd,
    log: OwnedFd,
    console: OwnedFd,
    qmp: OwnedFd,
    agent: OwnedFd,
    tap: Option<OwnedFd>,
    disks: Vec<OwnedFd>,
}

impl Inherited {
    fn of(parts: &Parts) -> io::Result<Inherited> {
        let copy = |fd: &dyn AsFd| -> io::Result<OwnedFd> {
            Ok(sys::adopt(fcntl(fd.as_fd(), FcntlArg::F_DUPFD(LOWEST))?))
        };
        Ok(Inherited {
            kernel: copy(&parts.kernel)?,
            initrd: copy(&parts.initrd)?,
            log: copy(&parts.log)?,
            console: copy(&parts.console)?,
            qmp: copy(&parts.qmp)?,
            agent: copy(&parts.agent)?,
            tap: parts.tap.as_ref().map(|(tap, _)| copy(tap)).transpose()?,
            disks: parts
                .disks
                .iter()
                .map(|d| copy(d))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Of those that the machine monitor keeps.
    fn numbers(&self) -> Vec<RawFd> {
        let sockets = [&self.console, &self.qmp, &self.agent];
        let others = self.tap.iter().chain(&self.disks);
        let kept = sockets.into_iter().chain(others);
        kept.map(AsRawFd::as_raw_fd).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_others_could_write_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let program = base.path().join("qemu");
        assert!(refuse_unsafe(&program).is_err(), "it is not there");
        fs::write(&program, "x").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o775)).unwrap();
        let error = refuse_unsafe(&program).unwrap_err().to_string();
        assert!(error.contains("belongs to others"), "{error}");
        refuse_unsafe(Path::new("/usr/bin/env")).unwrap();
    }
}
