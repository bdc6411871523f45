//! Whether a VM lives, as the kernel tells it now.
//!
//! `alive.lock` is probed with F_OFD_GETLK (fcntl(2)) and never taken, so that looking at a VM
//! cannot disturb its start.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use banger_wire::monitor::{ControlReply, ControlRequest, Handles, Phase, file};
use lib_model::{SCHEMA, VmRecord, VmState};
use lib_store::{Context, VmRow};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

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

/// Asks the kernel, and the monitor if there is one.
pub fn life(context: &Context, vm: &VmRow) -> Life {
    if !is_locked(&context.vm(&vm.id).join(file::ALIVE_LOCK)) {
        return Life::Dead;
    }
    // A monitor answers at once unless the machine is stuck; a list must not hang on one of many.
    let patience = Some(Duration::from_secs(5));
    let reply = Control::connect(context, vm).ok().and_then(|mut control| {
        control
            .ask(&ControlRequest::Status, patience, &Interrupt::never())
            .ok()?
    });
    match reply {
        Some(ControlReply::Status { phase, .. }) => Life::Alive(phase),
        _ if !is_locked(&context.vm(&vm.id).join(file::ALIVE_LOCK)) => Life::Dead,
        _ => Life::Unattended,
    }
}

/// The record of a VM with its state now.
pub fn record(context: &Context, vm: &VmRow, changed: bool) -> VmRecord {
    let state = match life(context, vm) {
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
        network: vm.spec.network.clone(),
        vmm: vm.spec.vmm.clone(),
        pid: handles.as_ref().map(|h| h.vmm_pid),
        created_ms: vm.created_ms,
        started_ms: handles.map(|h| h.started_ms),
        changed,
    }
}

/// The cached process ids, if they are this VM's.
fn handles(context: &Context, vm: &VmRow) -> Option<Handles> {
    let text = fs::read(context.vm(&vm.id).join(file::HANDLES)).ok()?;
    let handles: Handles = serde_json::from_slice(&text).ok()?;
    (handles.vm == vm.id.as_str()).then_some(handles)
}

/// Somebody holds a lock on the file; a missing file is not locked.
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let mut lock = whole_file(libc::F_WRLCK);
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => i32::from(lock.l_type) != libc::F_UNLCK,
        Err(_) => false,
    }
}

/// Waits until nobody holds the lock. Only for who holds `vm[id]`, so that no start is disturbed.
///
/// # Errors
/// When the file cannot be opened or locked.
pub(crate) fn wait_unlocked(path: &Path) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    loop {
        match fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole_file(libc::F_WRLCK))) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_and_not_taken() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("alive.lock");
        assert!(!is_locked(&path), "a missing file is not locked");
        let holder = File::create(&path).unwrap();
        assert!(!is_locked(&path));
        fcntl(&holder, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))).unwrap();
        assert!(is_locked(&path));
        assert!(is_locked(&path));
        let inherited = holder.try_clone().unwrap();
        drop(holder);
        assert!(is_locked(&path), "a duplicate descriptor keeps the lock");
        drop(inherited);
        assert!(!is_locked(&path));
        wait_unlocked(&path).unwrap();
    }
}
