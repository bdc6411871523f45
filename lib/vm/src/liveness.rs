//! Whether a VM lives, as the kernel tells it now.
//!
//! `alive.lock` is probed with F_OFD_GETLK (fcntl(2)) and never taken, so that looking at a VM
//! cannot disturb its start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_wire::monitor::{ControlReply, ControlRequest, ExitRecord, Handles, Phase, file};
use lib_model::{SCHEMA, VmRecord, VmState};
use lib_store::{Context, FileLock, ShareUse, VmRow, VolumeUse};

use crate::holders::holders;
use crate::{Control, Interrupt};

/// What is there of a VM at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Neither monitor nor VMM.
    Dead,
    /// The monitor answers.
    Alive(Phase),
    /// The lock is held, but nobody answers: a monitor that is only starting, or a VMM alone.
    Unattended,
}

/// A monitor answers at once unless the machine is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this the kernel is asked whether the monitor can answer at all.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// Monitors asked at a time: each is an open connection.
const AT_ONCE: usize = 256;

/// Asks the kernel, and the monitor if there is one.
pub fn life(context: &Context, vm: &VmRow) -> Life {
    Question::ask(context, vm).answer(Instant::now())
}

/// What was asked of one VM's monitor.
struct Question<'a> {
    context: &'a Context,
    vm: &'a VmRow,
    /// Nobody holds the lock when this is missing.
    monitor: Option<Option<Control>>,
}

impl<'a> Question<'a> {
    fn ask(context: &'a Context, vm: &'a VmRow) -> Self {
        let held = FileLock::is_held(&context.vm(&vm.id).join(file::ALIVE_LOCK));
        let connect = || {
            let mut control = Control::connect(context, vm).ok()?;
            control.send(&ControlRequest::Status).ok()?;
            Some(control)
        };
        Question {
            context,
            vm,
            monitor: held.then(connect),
        }
    }

    /// Waits for the answer, for as long as `asked` is not too long ago.
    fn answer(self, asked: Instant) -> Life {
        let Some(control) = self.monitor else {
            return Life::Dead;
        };
        let left =
            |patience: Duration| (asked + patience).saturating_duration_since(Instant::now());
        let reply = control.and_then(|mut control| {
            let mut wait = |patience| {
                let interrupt = Interrupt::never();
                control.reply(Some(left(patience)), &interrupt).ok()
            };
            match wait(SHORT_PATIENCE)? {
                None if !is_stopped(monitor(self.context, self.vm)) => wait(PATIENCE)?,
                reply => reply,
            }
        });
        let lock = self.context.vm(&self.vm.id).join(file::ALIVE_LOCK);
        match reply {
            Some(ControlReply::Status { phase, .. }) => Life::Alive(phase),
            _ if !FileLock::is_held(&lock) => Life::Dead,
            _ => Life::Unattended,
        }
    }
}

/// Somebody stopped the process, so it will not answer however long one waits (proc_pid_stat(5), state).
fn is_stopped(pid: Option<i32>) -> bool {
    let stat = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stat.as_deref()
        .and_then(|stat| stat.rsplit_once(')'))
        .is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
}

/// The records of many VMs, without how their last runs ended; all monitors are asked before the first answer is waited for, so that some
/// that do not answer cost no more than one.
pub fn records(context: &Context, vms: &[VmRow]) -> Vec<VmRecord> {
    let mut records = Vec::new();
    for some in vms.chunks(AT_ONCE) {
        let asked = Instant::now();
        let questions: Vec<_> = some.iter().map(|vm| Question::ask(context, vm)).collect();
        records.extend(questions.into_iter().map(|question| {
            let vm = question.vm;
            record_of(context, vm, question.answer(asked), false)
        }));
    }
    records
}

/// The record of a VM with its state now.
pub fn record(context: &Context, vm: &VmRow, changed: bool) -> VmRecord {
    let record = record_of(context, vm, life(context, vm), changed);
    let exit = (record.state == VmState::Stopped).then(|| exit_word(context, vm));
    VmRecord {
        exit: exit.flatten(),
        ..record
    }
}

/// As `--volume` takes it.
fn volume_word(volume: &VolumeUse) -> String {
    let end = if volume.read_only { ":ro" } else { "" };
    format!("{}:{}{end}", volume.name, volume.path)
}

/// As `--mount` takes it.
fn mount_word(share: &ShareUse) -> String {
    let end = if share.read_only { "" } else { ":rw" };
    format!("{}:{}{end}", share.source.display(), share.path)
}

fn record_of(context: &Context, vm: &VmRow, life: Life, changed: bool) -> VmRecord {
    let state = match life {
        Life::Dead => VmState::Stopped,
        Life::Alive(Phase::Booting) => VmState::Starting,
        Life::Alive(Phase::Ready) => VmState::Running,
        Life::Alive(Phase::Stopping) => VmState::Stopping,
        Life::Unattended => VmState::Orphaned,
    };
    let handles = (state != VmState::Stopped)
        .then(|| handles(context, vm))
        .flatten();
    VmRecord {
        schema: SCHEMA,
        id: vm.id.clone(),
        name: vm.name.clone(),
        state,
        image: vm.image.clone(),
        image_name: vm.spec.image_name.clone(),
        kernel: vm.kernel.clone(),
        cpus: vm.spec.cpus,
        memory: vm.spec.memory,
        disk: vm.spec.disk,
        disk_kind: vm.spec.disk_kind.clone(),
        init: vm.spec.init.clone(),
        network: vm.spec.network.clone(),
        address: vm.spec.address.filter(|_| vm.spec.network == "bridge"),
        vmm: vm.spec.vmm.clone(),
        idle_stop_s: vm.spec.idle_stop_s,
        pid: match &handles {
            Some(handles) => Some(handles.vmm_pid),
            None if state != VmState::Stopped => vmm(&context.vm(&vm.id).join(file::ALIVE_LOCK)),
            None => None,
        },
        created_ms: vm.created_ms,
        started_ms: handles.as_ref().map(|h| h.started_ms),
        ports: vm.spec.publish.iter().map(ToString::to_string).collect(),
        command: vm.spec.entrypoint.clone(),
        work_disk: vm.spec.work_disk,
        volumes: vm.spec.volumes.iter().map(volume_word).collect(),
        mounts: vm.spec.shares.iter().map(mount_word).collect(),
        cpu_limit_percent: vm.spec.cpu_limit,
        memory_limit: vm.spec.memory_limit,
        directory: Some(context.vm(&vm.id)),
        runtime: handles.and_then(|h| h.runtime),
        exit: None,
        changed,
    }
}

/// Why the last run ended, as in its exit record.
fn exit_word(context: &Context, vm: &VmRow) -> Option<String> {
    let text = fs::read(context.vm(&vm.id).join(file::EXIT_RECORD)).ok()?;
    let record: ExitRecord = serde_json::from_slice(&text).ok()?;
    Some(record.reason.as_str().to_owned())
}

/// Where the sockets of a VM are: as its monitor said, else where this environment would put them.
pub fn runtime(context: &Context, vm: &VmRow) -> PathBuf {
    handles(context, vm)
        .and_then(|handles| handles.runtime)
        .unwrap_or_else(|| context.vm_runtime(&vm.id))
}

/// The process id of the monitor, if it lives; asked of the OS.
pub(crate) fn monitor(context: &Context, vm: &VmRow) -> Option<i32> {
    holders(&context.vm(&vm.id).join(file::ALIVE_LOCK))
        .into_iter()
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "banger-monitor")
        })
}

/// Process ids and sockets of a living VM: as its monitor wrote them, or asked of the OS when that
/// file is missing, damaged, another VM's or of another run.
fn handles(context: &Context, vm: &VmRow) -> Option<Handles> {
    written_handles(context, vm).or_else(|| rebuilt_handles(context, vm))
}

fn written_handles(context: &Context, vm: &VmRow) -> Option<Handles> {
    let text = fs::read(context.vm(&vm.id).join(file::HANDLES)).ok()?;
    let handles: Handles = serde_json::from_slice(&text).ok()?;
    let ours = handles.vm == vm.id.as_str() && boot_id().is_none_or(|id| id == handles.boot_id);
    ours.then_some(handles)
}

fn rebuilt_handles(context: &Context, vm: &VmRow) -> Option<Handles> {
    let lock = context.vm(&vm.id).join(file::ALIVE_LOCK);
    if !FileLock::is_held(&lock) {
        return None;
    }
    let socket = control_socket(&fs::read_to_string("/proc/net/unix").ok()?, vm.id.as_str());
    let runtime = match socket {
        Some(socket) => socket.parent()?.to_owned(),
        None => context.vm_runtime(&vm.id),
    };
    // It was bound when the VM was launched.
    let started = fs::metadata(runtime.join(file::CONTROL_SOCKET))
        .and_then(|socket| socket.modified())
        .ok()?;
    let since = started.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Handles {
        vm: vm.id.to_string(),
        monitor_pid: u32::try_from(monitor(context, vm)?).ok()?,
        vmm_pid: vmm(&lock)?,
        boot_id: boot_id()?,
        started_ms: u64::try_from(since.as_millis()).ok()?,
        runtime: Some(runtime),
    })
}

/// Writes `handles.json` anew when a living VM has none that is true. The caller holds `vm[id]`. Returns
/// whether it was needed.
pub(crate) fn mend_handles(context: &Context, vm: &VmRow, dry_run: bool) -> io::Result<bool> {
    if written_handles(context, vm).is_some() {
        return Ok(false);
    }
    let Some(handles) = rebuilt_handles(context, vm) else {
        return Ok(false);
    };
    if dry_run {
        return Ok(true);
    }
    let path = context.vm(&vm.id).join(file::HANDLES);
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(&handles)?)?;
    fs::rename(new, path)?;
    Ok(true)
}

fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Where the control socket of the VM `id` is bound, by the kernel's list (proc(5), /proc/net/unix:
/// the path is the eighth column).
fn control_socket(sockets: &str, id: &str) -> Option<PathBuf> {
    let tail = format!("/{id}/{}", file::CONTROL_SOCKET);
    sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .find(|path| path.ends_with(&tail))
        .map(PathBuf::from)
}

/// The VMM, asked of the OS: the process with the lock whose parent has it too, or is gone.
fn vmm(alive_lock: &Path) -> Option<u32> {
    let pids = holders(alive_lock);
    let child = pids
        .iter()
        .find(|pid| parent(**pid).is_some_and(|parent| pids.contains(&parent)));
    child
        .or(pids.first())
        .and_then(|pid| u32::try_from(*pid).ok())
}

/// Parent of a process (proc_pid_stat(5), field 4, behind the name in parentheses).
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_kernel_says_where_a_socket_is_bound() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("00112233445566aa");
        fs::create_dir(&directory).unwrap();
        let socket = directory.join(file::CONTROL_SOCKET);
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        assert_eq!(control_socket(&sockets, "00112233445566aa"), Some(socket));
        assert_eq!(control_socket(&sockets, "00112233445566ab"), None);
    }

    #[test]
    fn a_child_with_the_lock_is_the_vmm() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join(file::ALIVE_LOCK);
        let lock = FileLock::try_take(&path).unwrap().unwrap().into_file();
        assert_eq!(vmm(&path), None);
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(lock))
            .spawn()
            .unwrap();
        assert_eq!(vmm(&path), Some(child.id()));
        assert_eq!(
            parent(i32::try_from(child.id()).unwrap()),
            i32::try_from(std::process::id()).ok()
        );
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
