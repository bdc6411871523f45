//! The processes behind operations, seen from outside.

use lib_model::OperationId;
use lib_store::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::holders::holders;

/// What a worker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerSignal {
    /// Take back what was made, and end.
    End,
    /// End at once.
    Kill,
}

/// Tells the worker of an operation to end, if it lives: who holds its lock is the worker.
pub fn signal_worker(context: &Context, id: &OperationId, signal: WorkerSignal) {
    let signal = match signal {
        WorkerSignal::End => Signal::SIGTERM,
        WorkerSignal::Kill => Signal::SIGKILL,
    };
    for pid in holders(&context.operation_lock(id)) {
        // One that is gone already is what we want.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
