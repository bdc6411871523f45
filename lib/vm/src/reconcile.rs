//! Repair by hand, or from a timer. No command needs it: each sees the truth by itself. It removes what
//! crashes left sooner than the next command that would.

use std::fs;

use lib_store::{Locks, Store, VmRow};

use crate::error::io_error;
use crate::liveness::mend_handles;
use crate::{DiskKind, Life, VmError, life, stop, sweep};

/// Something that was found and mended.
#[derive(Debug)]
pub struct Repair {
    /// The VM.
    pub vm: VmRow,
    /// What was done, in the past tense.
    pub done: &'static str,
}

/// Looks at every VM that nobody works on, and mends what a crash left. With `dry_run`, only looks.
///
/// # Errors
/// A store that cannot be read or written. What was mended until then stays mended.
pub fn reconcile(
    store: &mut Store,
    locks: &mut Locks,
    dry_run: bool,
) -> Result<Vec<Repair>, VmError> {
    let mut repairs = Vec::new();
    if !dry_run {
        repairs.extend(sweep(store, locks)?.into_iter().map(|vm| Repair {
            vm,
            done: "removed: the command that made it is gone",
        }));
    }
    for vm in store.vms()? {
        let Some(guard) = locks.try_vm(&vm.id)? else {
            continue;
        };
        let Ok(vm) = store.vm_again(&guard, &vm) else {
            continue;
        };
        let context = store.context();
        let mut mended = |done| {
            repairs.push(Repair {
                vm: vm.clone(),
                done,
            });
        };
        match life(context, &vm) {
            Life::Unattended if crate::liveness::monitor(context, &vm).is_none() => {
                if !dry_run {
                    stop::kill(context, &guard, &vm)?;
                }
                mended("killed: its VMM ran without a monitor");
            }
            Life::Dead => {
                let runtime = context.vm_runtime(&vm.id);
                if runtime.exists() {
                    if !dry_run {
                        fs::remove_dir_all(&runtime).map_err(io_error("remove", &runtime))?;
                    }
                    mended("cleared: sockets without a listener were left");
                }
                if !DiskKind::path(context, &vm).exists() {
                    mended("found without its disk: delete it");
                }
            }
            Life::Alive(_) | Life::Unattended => {
                let directory = context.vm(&vm.id);
                if mend_handles(context, &vm, dry_run).map_err(io_error("write", directory))? {
                    mended("mended: handles.json was missing or wrong");
                }
            }
        }
    }
    Ok(repairs)
}
