//! `banger-vm volume`: disks that outlive VMs.

use lib_cli::{Failure, Session};
use lib_model::VmName;
use lib_store::Store;
use lib_vm::VmError;

use crate::cli::{VolumeArgs, VolumeVerb};

/// Makes, lists or removes volumes.
pub(crate) fn run(session: &mut Session, args: &VolumeArgs) -> Result<(), Failure> {
    match &args.verb {
        VolumeVerb::Create { name, size } => {
            let store = session.store()?;
            let size = size.unwrap_or(lib_vm::DEFAULT_VOLUME);
            let record = lib_vm::create_volume(&store, &mut session.locks(), name, size)?;
            session.output.emit(record)
        }
        VolumeVerb::List => {
            let Some(store) = Store::open_existing(&session.context)? else {
                return Ok(());
            };
            for record in lib_vm::volumes(&store)? {
                session.output.emit(record)?;
            }
            Ok(())
        }
        VolumeVerb::Delete { names } => {
            let store = session.store()?;
            let mut locks = session.locks();
            lib_cli::for_each(
                Box::new(names.iter().map(|name| Ok(name.to_string()))),
                |name| {
                    let name = VmName::try_from(name)
                        .map_err(|error| Failure::usage(error.to_string()))?;
                    let deleted = lib_vm::delete_volume(&store, &mut locks, &name);
                    let deleted = deleted.map_err(|error| match error {
                        VmError::NoVolume { .. } => {
                            Failure::from(error).hint("banger-vm volume list")
                        }
                        error => error.into(),
                    });
                    session.output.emit(deleted?)
                },
            )
        }
    }
}
