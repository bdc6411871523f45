//! `banger-vm run`: a command in a VM of its own, which ends with the command.

use lib_cli::{Failure, Session, StdinRecords};
use lib_config::{Config, Environment};
use lib_model::{ImageRecord, Record};
use lib_store::{Locks, Store, VmRow};
use lib_vm::{CreateRequest, InitChoice, Interrupt};

use crate::OWN_FAILURE;
use crate::cli::RunArgs;
use crate::commands::exec::{self, Input};
use crate::commands::{create, stop};
use crate::resolve;

/// Runs the command; the status is the guest's.
pub(crate) fn run(session: &mut Session, args: RunArgs) -> Result<u8, Failure> {
    run_inner(session, args).map_err(|failure| match failure.status() {
        status if status >= OWN_FAILURE => failure,
        _ => failure.with_status(OWN_FAILURE),
    })
}

fn run_inner(session: &mut Session, mut args: RunArgs) -> Result<u8, Failure> {
    let config = Config::load(&Environment::process())?;
    args.machine = args.machine.configured(&config);
    create::request(args.name.as_ref(), &args.machine, !args.keep).check()?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    let from_record = args.image.as_deref() == Some("-");
    let image = if from_record {
        image_from_stdin(&store)?
    } else {
        resolve::image(
            session,
            &mut store,
            &mut locks,
            args.image.as_deref().or(config.default.image.as_deref()),
            args.machine.pull,
        )?
    };
    let init = args.machine.init.clone();
    let boots_init = init.is_none() && args.command.is_empty() && lib_vm::is_init(&image.config);
    let command = if boots_init {
        // An init is no command; it gets its machine, and the user a shell in it.
        Vec::new()
    } else if args.command.is_empty() {
        let config = &image.config;
        config
            .entrypoint
            .iter()
            .chain(&config.cmd)
            .cloned()
            .collect()
    } else {
        args.command.clone()
    };
    let input = if from_record {
        Input::Null
    } else {
        Input::ours(&args.process)
    };
    let choice = match init {
        Some(choice) => choice,
        None if boots_init => InitChoice::Auto,
        None => InitChoice::None,
    };
    let mut processes = lib_vm::processes(&choice, &image.config, &[]);
    if processes.init == "none" {
        // The command is ours to run, with our input and output.
        processes.entrypoint.clear();
    }
    let request = CreateRequest {
        processes,
        ..create::request(args.name.as_ref(), &args.machine, !args.keep)
    };
    let made = create::machine(
        session,
        &mut store,
        &mut locks,
        &image,
        &request,
        &args.machine,
    )?;
    let timeout = args.machine.boot_timeout;
    let tether = create::boot(session, &mut store, &mut locks, &made, timeout)?;
    let vm = made.created.vm;
    let outcome = exec::in_guest(
        session,
        &vm,
        &args.process,
        command,
        args.command.is_empty(),
        input,
    );
    let ended = end(session, &mut store, &mut locks, &vm, args.keep);
    // Until here no signal could keep us from removing the VM.
    drop((tether, made.created.owner, made.interrupt));
    let status = outcome?;
    ended?;
    Ok(status)
}

fn image_from_stdin(store: &Store) -> Result<ImageRecord, Failure> {
    match StdinRecords::new("image").next() {
        Some(Ok(Record::Image(image))) => Ok(store.image(image.id.as_str())?),
        Some(Err(failure)) => Err(failure),
        _ => Err(Failure::usage(
            "an image record was expected on standard input",
        )),
    }
}

fn end(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    vm: &VmRow,
    keep: bool,
) -> Result<(), Failure> {
    let guard = locks.vm(&vm.id)?;
    if keep {
        lib_vm::stop(
            &session.context,
            &guard,
            vm,
            stop::DEFAULT_GRACE,
            &Interrupt::never(),
        )?;
        session.note(&format!("{} is kept: banger-vm start {}", vm.name, vm.name));
        return Ok(());
    }
    Ok(lib_vm::delete(store, &guard, vm, true)?)
}
