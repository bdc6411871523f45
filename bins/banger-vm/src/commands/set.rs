//! `banger-vm set`.

use lib_cli::{Failure, Session};
use lib_vm::Change;

use crate::cli::{Pull, SetArgs};
use crate::{resolve, target};

/// Changes the VMs, or says what a change would come to, and prints their records.
pub(crate) fn run(session: &mut Session, args: &SetArgs) -> Result<(), Failure> {
    let change = Change {
        image: None,
        kernel: None,
        discard_root: args.discard_root,
        cpu_limit: args.cpu_limit,
        memory_limit: args.memory_limit,
        name: args.name.clone(),
        cpus: args.cpus,
        memory: args.memory,
        disk: args.disk,
        network: args.network.as_deref().and_then(|mode| mode.parse().ok()),
        accel: args.accel.as_deref().and_then(|kind| kind.parse().ok()),
        idle_stop: args.idle_stop,
    };
    let replaced = args.image.is_some() || args.kernel.is_some();
    if change == Change::default() && !replaced {
        return Err(Failure::usage("no change was given").hint("banger-vm set --help"));
    }
    if args.name.is_some() && (args.vms.all || args.vms.vms.len() > 1) {
        return Err(Failure::usage("--name fits one VM, but more are named"));
    }
    let mut store = session.store()?;
    let mut locks = session.locks();
    let dry_run = args.dry_run;
    let image = args
        .image
        .as_deref()
        .map(|image| resolve::image(session, &mut store, &mut locks, Some(image), Pull::Missing));
    let kernel = args.kernel.as_deref().map(|kernel| store.kernel(kernel));
    let change = Change {
        image: image.transpose()?,
        kernel: kernel.transpose()?,
        ..change
    };
    target::for_each(&mut store, &args.vms, |store, vm| {
        let mut guard = locks.vm(&vm.id)?;
        let vm = store.vm_again(&guard, &vm)?;
        let changed = lib_vm::set(store, &mut guard, &vm, &change, dry_run)?;
        drop(guard);
        session.note(&described(&vm.name, &changed, dry_run));
        let differs = !changed.fields.is_empty();
        let record = lib_vm::record(&session.context, &changed.vm, differs && !dry_run);
        session.output.emit(record)
    })
}

fn described(name: &lib_model::VmName, changed: &lib_vm::Changed, dry_run: bool) -> String {
    if changed.fields.is_empty() {
        return format!("{name} is that way already");
    }
    let would = if dry_run { "would change" } else { "changed" };
    let mut text = format!("{name}: {would} {}", changed.fields.join(", "));
    let live = changed.live.iter().filter(|field| **field != "name");
    let live: Vec<&str> = live.copied().collect();
    if !live.is_empty() {
        let when = if dry_run { "at once" } else { "in effect now" };
        text += &format!("; {}: {when}", live.join(", "));
    }
    if !changed.waiting.is_empty() {
        let waiting = changed.waiting.join(", ");
        text += &match dry_run {
            true => format!("; {waiting}: would need a restart"),
            false => format!(
                "; {waiting}: from its next start on: banger-vm restart {}",
                changed.vm.name
            ),
        };
    }
    if let Some(trouble) = &changed.trouble {
        text += &format!(" (not at once: {trouble})");
    }
    text
}
