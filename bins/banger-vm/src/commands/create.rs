//! `banger-vm create`: from images to VMs.

use std::time::Duration;

use lib_cli::{Failure, Session, StdinRecords, stdin_is_data};
use lib_model::{ImageRecord, Progress, Record, VmName};
use lib_store::{Locks, Store, VmRow};
use lib_vm::{Control, CreateRequest, Created, Interrupt, VmError};

use crate::cli::{CreateArgs, MachineArgs};
use crate::resolve;

/// Makes a VM of the named image, or one of each image record on standard input.
pub(crate) fn run(session: &mut Session, args: CreateArgs) -> Result<(), Failure> {
    request(args.name.as_ref(), &args.machine, false).check()?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    let from_records = match args.image.as_deref() {
        Some("-") => true,
        Some(_) => false,
        None => stdin_is_data(),
    };
    if !from_records {
        let image = resolve::image(
            session,
            &mut store,
            &mut locks,
            args.image.as_deref(),
            args.machine.pull,
        )?;
        return one(
            session,
            &mut store,
            &mut locks,
            &image,
            args.name.as_ref(),
            &args,
        );
    }
    let mut made = 0;
    for record in StdinRecords::new("image") {
        let image = match record? {
            Record::Image(image) => store.image(image.id.as_str())?,
            other => {
                return Err(Failure::usage(format!(
                    "an image record was expected, this is the record of one {}",
                    other.kind()
                ))
                .hint("banger-image pull … | banger-vm create"));
            }
        };
        made += 1;
        if made > 1 && args.name.is_some() {
            return Err(Failure::usage(
                "--name fits one VM, but standard input has more images",
            ));
        }
        one(
            session,
            &mut store,
            &mut locks,
            &image,
            args.name.as_ref(),
            &args,
        )?;
    }
    Ok(())
}

fn one(
    session: &mut Session,
    store: &mut Store,
    locks: &mut Locks,
    image: &ImageRecord,
    name: Option<&VmName>,
    args: &CreateArgs,
) -> Result<(), Failure> {
    let vm = machine(session, store, locks, image, name, &args.machine, false)?.vm;
    if !args.no_start {
        boot(session, store, locks, &vm, args.machine.boot_timeout)?;
    }
    session
        .output
        .emit(lib_vm::record(&session.context, &vm, true))
}

/// Makes a stopped VM of an image and a kernel, after all that can be checked was checked.
pub(crate) fn machine(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    image: &ImageRecord,
    name: Option<&VmName>,
    args: &MachineArgs,
    ephemeral: bool,
) -> Result<Created, Failure> {
    lib_vm::sweep(store, locks)?;
    lib_vm::preflight(&session.context, "qemu", args.accel())?;
    if let Some(name) = name
        && store.vm_names()?.iter().any(|taken| taken == name.as_str())
    {
        // Checked again under the lock; this spares the wait for a kernel.
        return Err(lib_store::StoreError::NameTaken {
            kind: "VM",
            name: name.to_string(),
        }
        .into());
    }
    let kernel = resolve::kernel(session, store, locks, args.kernel.as_deref())?;
    let request = request(name, args, ephemeral);
    Ok(lib_vm::create(store, locks, image, &kernel, &request)?)
}

/// What was typed as what is meant.
pub(crate) fn request(name: Option<&VmName>, args: &MachineArgs, ephemeral: bool) -> CreateRequest {
    CreateRequest {
        name: name.cloned(),
        cpus: args.cpus,
        memory: args.memory,
        disk: args.disk,
        network: args.network(),
        accel: args.accel(),
        entrypoint: Vec::new(),
        ephemeral,
    }
}

/// Boots a VM that was just made; takes it back when that fails or is interrupted. An ephemeral one
/// lives as long as what is returned.
pub(crate) fn boot(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    vm: &VmRow,
    timeout: u64,
) -> Result<Option<Control>, Failure> {
    let interrupt =
        Interrupt::install().map_err(|error| Failure::io("take over the signals", error))?;
    let guard = locks.vm(&vm.id)?;
    let patience = Duration::from_secs(timeout);
    let step = session.bars.step(&format!("booting {}", vm.name), None);
    let started = lib_vm::start(store, &guard, vm, patience, &interrupt, &|text| {
        session.note(text)
    });
    match started {
        Ok(started) => {
            step.done("");
            let seconds = started.boot.as_secs_f64();
            session.detail(&format!("{} was ready after {seconds:.2} s", vm.name));
            Ok(started.tether)
        }
        Err(error) => {
            // Its logs go with it; every other hint still helps.
            let logs_are_gone = matches!(error, VmError::Boot { .. });
            let removed = lib_vm::delete(store, &guard, vm, true);
            let failure = Failure::from(error);
            let name = &vm.name;
            Err(match removed {
                Ok(()) if logs_are_gone => {
                    failure.hint(format!("{name} was removed again; nothing of it remains"))
                }
                Ok(()) => {
                    session.note(&format!("{name} was removed again; nothing of it remains"));
                    failure
                }
                Err(_) => failure.hint(format!("banger-vm delete --force {name}")),
            })
        }
    }
}
