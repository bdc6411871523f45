//! `banger-vm stats`, also `top`.

use std::collections::HashMap;

use lib_cli::{Failure, Session};
use lib_guest::Stats;
use lib_store::{Store, VmRow, now_ms};
use lib_vm::Life;

use crate::cli::StatsArgs;
use crate::{follow, guest, target};

/// Looks at the named VMs, or at all that run, once or again and again.
pub(crate) fn run(session: &mut Session, args: &StatsArgs) -> Result<(), Failure> {
    let mut store = session.store_to_read()?;
    let named = args.vms.all || !args.vms.vms.is_empty() || lib_cli::stdin_is_data();
    let mut vms = Vec::new();
    if named {
        target::for_each(&mut store, &args.vms, |_, vm| {
            vms.push(vm);
            Ok(())
        })?;
    }
    let looks = match (args.count, args.follow) {
        (Some(count), _) => count,
        (None, true) => u64::MAX,
        (None, false) => 1,
    };
    let mut before: HashMap<String, Stats> = HashMap::new();
    for look in 0..looks {
        if look > 0 {
            follow::pause(args.interval)?;
        }
        let now = if named {
            vms.clone()
        } else {
            running(session, &store)?
        };
        for vm in &now {
            one(session, vm, &mut before, looks > 1)?;
        }
    }
    Ok(())
}

fn running(session: &Session, store: &Store) -> Result<Vec<VmRow>, Failure> {
    let mut vms = store.vms()?;
    vms.retain(|vm| lib_vm::life(&session.context, vm) != Life::Dead);
    Ok(vms)
}

fn one(
    session: &mut Session,
    vm: &VmRow,
    before: &mut HashMap<String, Stats>,
    follow: bool,
) -> Result<(), Failure> {
    let context = &session.context;
    let record = if lib_vm::life(context, vm) == Life::Dead {
        match lib_vm::last_sample(context, vm) {
            Some(sample) => {
                session.note(&format!(
                    "{} does not run: this is how it was last",
                    vm.name
                ));
                sample
            }
            None => lib_vm::statistics(context, vm, None, None, now_ms()),
        }
    } else {
        let said = guest::of(session, vm).stats();
        if let Err(error) = &said {
            session.note(&format!("{}: the guest says nothing: {error}", vm.name));
        }
        let said = said.ok();
        let id = vm.id.to_string();
        let record = lib_vm::statistics(context, vm, said.as_ref(), before.get(&id), now_ms());
        if let Some(said) = said {
            before.insert(id, said);
        }
        record
    };
    match follow {
        true => session.output.emit_now(record),
        false => session.output.emit(record),
    }
}
