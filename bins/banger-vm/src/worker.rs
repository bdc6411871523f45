//! The process behind `create --detach`: it does what the command would have done, and records in the
//! store how far it is and how it ended.
//!
//! It inherits the lock of its operation as standard input, and says on standard output that it has
//! detached itself; nothing of the command that began it is needed after that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lib_cli::{Failure, Session};
use lib_model::{Exit, OperationId, OperationState, Progress, Step};
use lib_store::{FileLock, Outcome, Store};

use crate::cli::{CreateArgs, WorkerArgs};
use crate::commands::{create, operation};

/// Progress is written to the store no more often than this.
const REPORTS: Duration = Duration::from_millis(250);

/// Begins the operation that makes a VM of `image`; its worker goes on without us.
///
/// # Errors
/// When the operation cannot be recorded, or its worker not be started; then nothing goes on.
pub(crate) fn begin(
    session: &Session,
    store: &mut Store,
    args: &CreateArgs,
    image: Option<&str>,
) -> Result<OperationId, Failure> {
    let name = args.name.as_ref().map(ToString::to_string);
    let name = name.as_deref().or(image).unwrap_or(lib_defaults::HOST);
    let (id, lock) = store.begin_operation("create", name)?;
    let started = start(session, &id, lock, args, image);
    if let Err(failure) = &started {
        store.finish_operation(&id, &outcome(Some(failure)))?;
    }
    started.map(|()| id)
}

fn start(
    session: &Session,
    id: &OperationId,
    lock: FileLock,
    args: &CreateArgs,
    image: Option<&str>,
) -> Result<(), Failure> {
    let failed = |error| Failure::io("start the worker of the operation", error);
    let mut worker = Command::new(std::env::current_exe().map_err(failed)?);
    worker
        .arg("--store")
        .arg(session.context.data())
        .args(["worker", id.as_str()])
        .args(args.machine.flags())
        .args(args.name.iter().map(|name| format!("--name={name}")))
        .args(args.no_start.then_some("--no-start"))
        .args(image)
        .args((!args.command.is_empty()).then_some("--"))
        .args(&args.command)
        .stdin(Stdio::from(lock.into_file()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut worker = worker.spawn().map_err(failed)?;
    let mut said = Vec::new();
    if let Some(stdout) = &mut worker.stdout {
        stdout.read_to_end(&mut said).map_err(failed)?;
    }
    if said == DETACHED {
        return Ok(());
    }
    let status = worker.wait().map_err(failed)?;
    Err(failed(io::Error::other(format!(
        "it ended early ({status})"
    ))))
}

const DETACHED: &[u8] = b"detached\n";

/// Makes the VM; its end is in the store, not in our exit status.
///
/// # Errors
/// When the store cannot be opened or the outcome not be written.
pub(crate) fn run(session: &Session, args: WorkerArgs) -> Result<(), Failure> {
    let id = args.operation;
    let mut store = session.store()?;
    let mut lock = detach().map_err(|error| Failure::io("detach the worker", error))?;
    store.hold_operation(&id, &mut lock)?;
    say_and_fall_silent().map_err(|error| Failure::io("write to standard output", error))?;
    let report = Report {
        shared: Arc::new(Mutex::new(Shared {
            store: session.store()?,
            id: id.clone(),
            steps: Vec::new(),
            next: 0,
            written: None,
        })),
    };
    let session = session.reporting(Box::new(report));
    let mut locks = session.locks();
    let made = create::for_operation(&session, &mut store, &mut locks, &args.create, &id);
    store.finish_operation(&id, &outcome(made.err().as_ref()))?;
    Ok(())
}

fn outcome(failure: Option<&Failure>) -> Outcome {
    match failure {
        None => Outcome {
            state: OperationState::Done,
            status: Exit::Done.into(),
            error: Vec::new(),
            hint: None,
        },
        Some(failure) if failure.status() == u8::from(Exit::Interrupted) => operation::cancelled(),
        Some(failure) => {
            let (error, hint) = failure.parts();
            Outcome {
                state: OperationState::Failed,
                status: failure.status(),
                error: error.to_vec(),
                hint: hint.map(str::to_owned),
            }
        }
    }
}

/// Leaves the terminal's session, and takes the lock from standard input so that no child inherits it.
fn detach() -> io::Result<FileLock> {
    nix::unistd::setsid()?;
    let lock = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(FileLock::from_locked(lock))
}

fn say_and_fall_silent() -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(DETACHED)?;
    stdout.flush()?;
    nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(())
}

/// Progress that others can read in the store.
struct Report {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    store: Store,
    id: OperationId,
    steps: Vec<Under>,
    next: u64,
    written: Option<Instant>,
}

/// A step under way.
struct Under {
    key: u64,
    label: String,
    done: u64,
    total: Option<u64>,
}

impl Shared {
    /// The newest step names the stage; bytes are counted over all that are under way.
    fn write(&mut self) {
        let Some(newest) = self.steps.last() else {
            return;
        };
        let done = self.steps.iter().map(|step| step.done).sum();
        let total = self.steps.iter().map(|step| step.total).sum();
        // A report that cannot be written must not end the work; the outcome will be.
        let _ = self
            .store
            .set_operation_stage(&self.id, &newest.label, done, total);
        self.written = Some(Instant::now());
    }
}

impl Progress for Report {
    fn step(&self, label: &str, total: Option<u64>) -> Box<dyn Step> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let key = shared.next;
        shared.next += 1;
        shared.steps.push(Under {
            key,
            label: label.to_owned(),
            done: 0,
            total,
        });
        shared.write();
        Box::new(Reported {
            shared: self.shared.clone(),
            key,
        })
    }
}

struct Reported {
    shared: Arc<Mutex<Shared>>,
    key: u64,
}

impl Step for Reported {
    fn advance(&self, amount: u64) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key;
        if let Some(step) = shared.steps.iter_mut().find(|step| step.key == key) {
            step.done += amount;
        }
        if shared.written.is_none_or(|at| at.elapsed() >= REPORTS) {
            shared.write();
        }
    }

    fn done(&self, _note: &str) {}
}

impl Drop for Reported {
    fn drop(&mut self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key;
        shared.steps.retain(|step| step.key != key);
    }
}
