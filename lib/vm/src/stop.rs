//! Stop, kill, delete. Disks go only after death is confirmed. The caller holds `vm[id]`.

use std::time::Duration;

use banger_wire::monitor::{ControlReply, ControlRequest, ExitRecord, file};
use lib_store::{Context, FileLock, Store, VmGuard, VmRow};
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;

use crate::error::io_error;
use crate::holders::holders;
use crate::{Control, Interrupt, Life, VmError, bridge, life, limits};

/// Asks the guest to shut down, then the VMM to quit, then kills it. `None`: it was not running.
///
/// # Errors
/// When the monitor cannot be reached; [`VmError::Interrupted`], and the stop goes on.
pub fn stop(
    context: &Context,
    guard: &VmGuard<'_>,
    vm: &VmRow,
    grace: Duration,
    interrupt: &Interrupt,
) -> Result<Option<ExitRecord>, VmError> {
    match life(context, vm) {
        Life::Dead => return Ok(None),
        Life::Unattended => {
            kill(context, guard, vm)?;
            return Ok(None);
        }
        Life::Alive(_) => {}
    }
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let exit = end(
        context,
        vm,
        &ControlRequest::Stop { grace_ms },
        grace + Duration::from_secs(30),
        interrupt,
    )?;
    wait_dead(context, vm)?;
    Ok(exit)
}

/// Ends a VM at once, whatever is left of it. Returns whether it lived.
///
/// # Errors
/// When a process of it cannot be ended.
pub fn kill(context: &Context, _guard: &VmGuard<'_>, vm: &VmRow) -> Result<bool, VmError> {
    let lived = kill_now(context, vm);
    wait_dead(context, vm)?;
    Ok(lived)
}

/// Tells a VM's processes to end, without the VM's lock and without waiting: a start that holds the
/// lock then fails and lets go of it. Returns whether it lived.
pub fn kill_now(context: &Context, vm: &VmRow) -> bool {
    match life(context, vm) {
        Life::Dead => return false,
        Life::Alive(_) => {
            let patience = Duration::from_secs(20);
            if end(
                context,
                vm,
                &ControlRequest::Kill,
                patience,
                &Interrupt::never(),
            )
            .is_err()
            {
                kill_holders(context, vm);
            }
        }
        Life::Unattended => kill_holders(context, vm),
    }
    true
}

/// Forgets a VM and removes its disks. A living one is killed first, if `force` says so.
///
/// # Errors
/// [`VmError::Running`] without `force`.
pub fn delete(
    store: &mut Store,
    guard: &VmGuard<'_>,
    vm: &VmRow,
    force: bool,
) -> Result<(), VmError> {
    if life(store.context(), vm) != Life::Dead {
        if !force {
            return Err(VmError::Running {
                vm: vm.name.to_string(),
            });
        }
        kill(store.context(), guard, vm)?;
    }
    store.delete_vm(guard, &vm.id)?;
    limits::clear(&vm.id, &vm.spec);
    // Last, so that no VM is without what its row says it has.
    if vm.spec.address.is_some() {
        bridge::release(store.context(), &vm.id);
    }
    Ok(())
}

fn end(
    context: &Context,
    vm: &VmRow,
    request: &ControlRequest,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<Option<ExitRecord>, VmError> {
    let asked = Control::connect(context, vm)
        .map_err(|source| VmError::Monitor {
            vm: vm.name.to_string(),
            source,
        })
        .and_then(|mut control| control.ask(request, Some(patience), interrupt));
    match asked {
        Ok(Some(ControlReply::Exited(exit))) => Ok(Some(exit)),
        // The monitor may be gone between the look and the question, or die on the way.
        Err(VmError::Monitor { .. }) if life(context, vm) == Life::Dead => Ok(None),
        Ok(_) => Err(VmError::Monitor {
            vm: vm.name.to_string(),
            source: std::io::Error::from(std::io::ErrorKind::TimedOut),
        }),
        Err(error) => Err(error),
    }
}

/// Kills who holds the lock: only processes of this VM can.
fn kill_holders(context: &Context, vm: &VmRow) {
    for pid in holders(&context.vm(&vm.id).join(file::ALIVE_LOCK)) {
        // One that is gone already is what we want.
        let _ = send_signal(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Taking the lock for a moment disturbs nobody: only who holds `vm[id]` may start the VM.
fn wait_dead(context: &Context, vm: &VmRow) -> Result<(), VmError> {
    let path = context.vm(&vm.id).join(file::ALIVE_LOCK);
    FileLock::wait_free(&path).map_err(io_error("wait for", path))
}
