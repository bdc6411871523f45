//! `banger-vm op`: what `create --detach` began.

use std::sync::mpsc;
use std::time::Duration;

use lib_cli::{Failure, Kind, Session, selectors};
use lib_model::{OperationId, OperationRecord, OperationState};
use lib_store::{Context, Outcome, Store, StoreError};
use lib_vm::WorkerSignal;

use crate::cli::{OpArgs, OpVerb, OperationsArgs};

/// A worker that was asked to end takes its guest down first; one that takes longer is killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lists, shows, waits for or cancels operations. `wait` ends with the first status that is not 0.
pub(crate) fn run(session: &mut Session, args: &OpArgs) -> Result<u8, Failure> {
    match &args.verb {
        OpVerb::List => list(session).map(|()| 0),
        OpVerb::Status(args) => status(session, args).map(|()| 0),
        OpVerb::Wait(args) => wait(session, args),
        OpVerb::Cancel(args) => cancel(session, args).map(|()| 0),
    }
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let Some(store) = Store::open_existing(&session.context)? else {
        return Ok(());
    };
    for row in store.operations()? {
        session.output.emit(store.operation_record(&row)?)?;
    }
    Ok(())
}

fn status(session: &mut Session, args: &OperationsArgs) -> Result<(), Failure> {
    let store = session.store()?;
    lib_cli::for_each(selectors(&args.operations, Kind::Operation)?, |id| {
        let record = store.operation_record(&store.operation(id)?)?;
        session.output.show(record)
    })
}

fn wait(session: &mut Session, args: &OperationsArgs) -> Result<u8, Failure> {
    let store = session.store()?;
    let mut first = 0;
    lib_cli::for_each(selectors(&args.operations, Kind::Operation)?, |id| {
        let row = store.operation(id)?;
        lib_store::wait_operation(&session.context, &row.id)?;
        let record = store.operation_record(&store.operation(row.id.as_str())?)?;
        let failure = failure(&record);
        session.output.emit(record)?;
        if let Some(failure) = failure {
            failure.print(std::io::stderr());
            if first == 0 {
                first = failure.status();
            }
        }
        Ok(())
    })?;
    Ok(first)
}

fn failure(record: &OperationRecord) -> Option<Failure> {
    if record.state == OperationState::Done {
        return None;
    }
    let status = record.status.filter(|status| *status != 0).unwrap_or(1);
    let error = match &record.error[..] {
        [] => vec![format!("the operation was {}", record.state)],
        error => error.to_vec(),
    };
    Some(Failure::from_parts(status, error, record.hint.clone()))
}

fn cancel(session: &mut Session, args: &OperationsArgs) -> Result<(), Failure> {
    let mut store = session.store()?;
    let mut locks = session.locks();
    lib_cli::for_each(selectors(&args.operations, Kind::Operation)?, |id| {
        let row = store.operation(id)?;
        let before = store.operation_record(&row)?;
        if before.state == OperationState::Running {
            end_worker(&session.context, &before.id)?;
        }
        let row = store.operation(row.id.as_str())?;
        let mut record = store.operation_record(&row)?;
        // One that was killed, by us or others, could not take back what it had made.
        if record.finished_ms.is_none() {
            let made = match &row.vm {
                Some(vm) => store.vm(vm.as_str()).map(Some),
                None => Ok(None),
            };
            match made {
                Ok(Some(vm)) => {
                    let guard = locks.vm(&vm.id)?;
                    lib_vm::delete(&mut store, &guard, &vm, true)?;
                }
                Ok(None) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            store.sweep_leftovers()?;
            store.finish_operation(&row.id, &cancelled())?;
            record = store.operation_record(&store.operation(row.id.as_str())?)?;
        }
        if record.state == OperationState::Done {
            // Nobody may have named the VM; then the operation is named after its image.
            let made = record.vm.as_ref().and_then(|vm| store.vm(vm.as_str()).ok());
            session.note(&match made {
                Some(vm) => format!(
                    "{} was done already: banger-vm delete {}",
                    record.id, vm.name
                ),
                None => format!("{} was done already, and its VM is gone", record.id),
            });
        }
        record.changed = before.finished_ms.is_none() && record.state == OperationState::Cancelled;
        session.output.emit(record)
    })
}

/// Recorded by who cancels, or by the worker that was asked to end.
pub(crate) fn cancelled() -> Outcome {
    Outcome {
        state: OperationState::Cancelled,
        status: lib_model::Exit::Interrupted.into(),
        error: vec!["the operation was cancelled; nothing of it remains".into()],
        hint: None,
    }
}

/// Asks the worker to end, then kills it; returns when it is gone.
fn end_worker(context: &Context, id: &OperationId) -> Result<(), Failure> {
    lib_vm::signal_worker(context, id, WorkerSignal::End);
    let (done, is_done) = mpsc::channel();
    let place = (context.clone(), id.clone());
    // Locks are waited for without a deadline (fcntl(2)), so another thread does.
    std::thread::spawn(move || done.send(lib_store::wait_operation(&place.0, &place.1)));
    match is_done.recv_timeout(PATIENCE) {
        Ok(waited) => Ok(waited?),
        Err(_) => {
            lib_vm::signal_worker(context, id, WorkerSignal::Kill);
            Ok(lib_store::wait_operation(context, id)?)
        }
    }
}
