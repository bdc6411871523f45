//! `banger-vm run`: a command in a VM of its own, which ends with the command, unless the VM then holds
//! work that is nowhere else.

use lib_cli::{Failure, Session, StdinRecords};
use lib_config::{Config, Environment};
use lib_model::{ImageRecord, Record};
use lib_store::{Locks, Store, VmRow};
use lib_vm::{CreateRequest, InitChoice, Interrupt};

use crate::OWN_FAILURE;
use crate::cli::RunArgs;
use crate::commands::exec::{self, Input};
use crate::commands::run_workspace::{Checkout, Ended};
use crate::commands::{create, stop};
use crate::{resolve, sync, workspace};

/// Runs the command; the status is the guest's.
pub(crate) fn run(session: &mut Session, args: RunArgs) -> Result<u8, Failure> {
    run_inner(session, args).map_err(|failure| match failure.status() {
        status if status >= OWN_FAILURE => failure,
        _ => failure.with_status(OWN_FAILURE),
    })
}

fn run_inner(session: &mut Session, mut args: RunArgs) -> Result<u8, Failure> {
    if args.detach {
        let message =
            "run waits for its command; what goes on in the background is a VM that stays";
        return Err(Failure::usage(message)
            .hint("banger-vm create IMAGE -- COMMAND   (and: banger-vm logs -f NAME)"));
    }
    let config = Config::load(&Environment::process())?;
    args.machine = args.machine.configured(&config);
    let (image, source) = workspace::words(
        args.image.take(),
        args.directory.take(),
        args.workspace.take(),
    )?;
    let mut checkout = Checkout::plan(source, args.export.take(), args.rm)?;
    create::request(args.name.as_ref(), &args.machine, !args.keep).check()?;
    let files = sync::files(session, &config)?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    let from_record = image.as_deref() == Some("-");
    let image = if from_record {
        image_from_stdin(&store)?
    } else {
        resolve::image(
            session,
            &mut store,
            &mut locks,
            image.as_deref().or(config.default.image.as_deref()),
            args.machine.pull,
        )?
    };
    let init = args.machine.init.clone();
    let boots_init = init.is_none() && args.command.is_empty() && lib_vm::is_init(&image.config);
    let mut command = if boots_init {
        // An init is no command; it gets its machine, and the user a shell in it.
        Vec::new()
    } else if args.command.is_empty() && checkout.is_none() {
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
    let input = Input::of(&args.process, from_record)?;
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
    let mut tether = create::boot(session, &mut store, &mut locks, &made, timeout)?;
    let mut vm = made.created.vm;
    // Who runs something strange once does not say to it who he is; with a repository he does.
    sync::deliver(session, &vm, &files, None);
    let mut process = args.process.clone();
    let ready = checkout.as_mut().map_or(Ok(()), |checkout| {
        checkout.prepare(session, &mut store, &mut locks, &vm, &made.interrupt)?;
        checkout.enter(session, &vm, &mut process, &args.tools, &mut command)?;
        // Up to here nothing would be lost with us; from here on something may be.
        if !args.rm {
            let mut guard = locks.vm(&vm.id)?;
            vm = lib_vm::keep(&mut store, &mut guard, &vm, tether.as_mut())?;
        }
        Ok(())
    });
    let outcome = ready.and_then(|()| {
        let interactive = args.command.is_empty();
        let ran = exec::in_guest(session, &vm, &process, command, interactive, input);
        if let Some(checkout) = &mut checkout {
            checkout.began();
        }
        ran
    });
    let ended = match &mut checkout {
        Some(checkout) => checkout.end(session, &mut store, &mut locks, &made.interrupt),
        None => Ended::Nothing,
    };
    let keep = args.keep || ended.holds_work();
    let gone = end(session, &mut store, &mut locks, &vm, keep);
    // Until here no signal could keep us from removing the VM.
    drop((tether, made.created.owner, made.interrupt));
    if keep {
        tell_where(session, &vm, &ended);
    }
    let status = outcome?;
    ended.result()?;
    gone?;
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
        return Ok(());
    }
    Ok(lib_vm::delete(store, &guard, vm, true)?)
}

fn tell_where(session: &Session, vm: &VmRow, ended: &Ended) {
    let name = &vm.name;
    match ended.reason() {
        Some(why) => session.note(&format!(
            "{why}; {name} is kept: banger-vm start {name}; banger-ws export {name}   \
             (or throw it away: banger-vm delete {name})"
        )),
        None => session.note(&format!("{name} is kept: banger-vm start {name}")),
    }
}
