//! `banger-vm up`: a VM as a file describes it; with `--foreground`, as a service manager wants it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use banger_wire::monitor::{ControlReply, ControlRequest, ExitReason};
use lib_cli::{Failure, Session};
use lib_config::{Config, Environment};
use lib_model::{ByteSize, Exit};
use lib_store::{Locks, Store, VmGuard, VmRow};
use lib_vm::{Change, Control, CreateRequest, Interrupt, VmError};

use crate::cli::{MachineArgs, UpArgs};
use crate::commands::create;
use crate::described::Description;
use crate::resolve;

/// Makes the VM, or makes it fit, and boots it.
pub(crate) fn run(session: &mut Session, args: &UpArgs) -> Result<(), Failure> {
    let config = Config::load(&Environment::process())?;
    let mut description = Description::read(&args.file)?;
    description.machine = description.machine.configured(&config);
    create::request(Some(&description.name), &description.machine, false).check()?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    let name = description.name.as_str();
    // By its name only: a selector could be the beginning of another one's id.
    let (vm, changed, interrupt) = if store.vm_names()?.iter().any(|there| there == name) {
        let vm = store.vm(name)?;
        existing(session, &mut store, &mut locks, &vm, &description)?
    } else {
        let image = description.image.as_deref();
        let image = image.or(config.default.image.as_deref());
        new(session, &mut store, &mut locks, image, &description)?
    };
    let record = lib_vm::record(&session.context, &vm, changed);
    if !args.foreground {
        return session.output.emit(record);
    }
    session.output.emit_now(record)?;
    let grace = Duration::from_secs(args.grace);
    supervise(session, &mut store, &mut locks, &vm, &interrupt, grace)
}

fn new(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    image: Option<&str>,
    description: &Description,
) -> Result<(VmRow, bool, Interrupt), Failure> {
    let machine = &description.machine;
    let image = resolve::image(session, store, locks, image, machine.pull)?;
    let choice = machine.init.clone().unwrap_or_default();
    let request = CreateRequest {
        processes: lib_vm::processes(&choice, &image.config, &description.command),
        ..create::request(Some(&description.name), machine, false)
    };
    let made = create::machine(session, store, locks, &image, &request, machine)?;
    create::boot(session, store, locks, &made, machine.boot_timeout)?;
    Ok((made.created.vm, true, made.interrupt))
}

fn existing(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    vm: &VmRow,
    description: &Description,
) -> Result<(VmRow, bool, Interrupt), Failure> {
    let machine = &description.machine;
    let mut guard = locks.vm(&vm.id)?;
    let vm = store.vm_again(&guard, vm)?;
    let changed = lib_vm::set(store, &mut guard, &vm, &change(machine, &vm), false)?;
    let ports = fit_ports(store, &mut guard, &vm, machine)?;
    for field in lasting(store, &vm, description) {
        session.note(&format!(
            "{}: another `{field}` needs another VM; this one is left as it was made \
             (banger-vm delete {}, then up, makes it anew)",
            vm.name, vm.name
        ));
    }
    if !changed.waiting.is_empty() {
        session.note(&format!(
            "{}: {} from its next start on: banger-vm restart {}",
            vm.name,
            changed.waiting.join(", "),
            vm.name
        ));
    }
    let interrupt =
        Interrupt::install().map_err(|error| Failure::io("take over the signals", error))?;
    let vm = store.vm_again(&guard, &vm)?;
    let patience = Duration::from_secs(machine.boot_timeout);
    let note = |text: &str| session.note(text);
    let started = lib_vm::start(store, &guard, &vm, patience, &interrupt, &note)?;
    let changed = started.changed || ports || !changed.fields.is_empty();
    Ok((vm, changed, interrupt))
}

/// What `set` can change.
fn change(machine: &MachineArgs, vm: &VmRow) -> Change {
    let wanted = create::request(None, machine, false);
    Change {
        name: None,
        cpus: Some(wanted.cpus),
        memory: Some(wanted.memory),
        // It only grows.
        disk: Some(wanted.disk.max(vm.spec.disk)),
        // Where the file says nothing, it was chosen when the VM was made.
        network: machine.network.as_ref().map(|_| wanted.network),
        accel: Some(wanted.accel),
        idle_stop: Some(wanted.idle_stop.unwrap_or_default()),
        cpu_limit: Some(wanted.cpu_limit.unwrap_or_default()),
        memory_limit: Some(wanted.memory_limit.unwrap_or(ByteSize(0))),
        ..Change::default()
    }
}

/// Publishes what the file has, and nothing else; a host port 0 fits whatever was chosen for it.
fn fit_ports(
    store: &mut Store,
    guard: &mut VmGuard<'_>,
    vm: &VmRow,
    machine: &MachineArgs,
) -> Result<bool, Failure> {
    let mut here = vm.spec.publish.clone();
    let mut wanted = machine.publish.clone();
    wanted.retain(|port| {
        let there = here.iter().position(|other| {
            let host = port.host_port == 0 || port.host_port == other.host_port;
            host && port.address == other.address && port.guest_port == other.guest_port
        });
        there.map(|at| here.swap_remove(at)).is_none()
    });
    let changed = !here.is_empty() || !wanted.is_empty();
    for port in here {
        let vm = store.vm_again(guard, vm)?;
        lib_vm::unpublish(store, guard, &vm, port)?;
    }
    for port in wanted {
        let vm = store.vm_again(guard, vm)?;
        lib_vm::publish(store, guard, &vm, port)?;
    }
    Ok(changed)
}

/// What differs and cannot be changed.
fn lasting(store: &Store, vm: &VmRow, description: &Description) -> Vec<&'static str> {
    let machine = &description.machine;
    let wanted = create::request(None, machine, false);
    let image = description.image.as_deref();
    let other_image = image
        .and_then(|image| store.image(image).ok())
        .is_some_and(|image| image.id != vm.image);
    let command = &description.command;
    [
        ("image", other_image),
        (
            "command",
            !command.is_empty() && *command != vm.spec.entrypoint,
        ),
        ("disk-kind", wanted.disk_kind.as_str() != vm.spec.disk_kind),
        ("work-disk", wanted.work_disk != vm.spec.work_disk),
        ("volume", wanted.volumes.len() != vm.spec.volumes.len()),
        ("mount", wanted.shares.len() != vm.spec.shares.len()),
        (
            "vm-env",
            create::unproxied(&wanted.env) != create::unproxied(&vm.spec.env),
        ),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}

/// Waits for the end of the VM, or of our time.
fn supervise(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    vm: &VmRow,
    interrupt: &Interrupt,
    grace: Duration,
) -> Result<(), Failure> {
    let context = session.context.clone();
    let mut control = Control::connect(&context, vm)
        .map_err(|error| Failure::io(&format!("reach the monitor of {}", vm.name), error))?;
    notify(&format!("READY=1\nSTATUS={} runs", vm.name));
    match control.ask(&ControlRequest::WaitExit, None, interrupt) {
        Err(VmError::Interrupted) => {
            notify("STOPPING=1");
            let guard = locks.vm(&vm.id)?;
            let vm = store.vm_again(&guard, vm)?;
            lib_vm::stop(&context, &guard, &vm, grace, &Interrupt::never())?;
            Ok(())
        }
        Ok(Some(ControlReply::Exited(record))) => match record.reason {
            ExitReason::GuestPowerOff | ExitReason::Stopped | ExitReason::Killed => Ok(()),
            reason => Err(Failure::new(
                Exit::Failed,
                format!("{} ended: {}", vm.name, reason.as_str()),
            )
            .hint(format!("banger-vm logs {}", vm.name))),
        },
        Ok(_) => Err(Failure::new(
            Exit::Failed,
            format!("the monitor of {} talks nonsense", vm.name),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Tells a service manager that waits for it (sd_notify(3)); it is no failure when none does.
fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let send = || -> io::Result<()> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    // The manager then says that it was never told.
    let _ = send();
}
