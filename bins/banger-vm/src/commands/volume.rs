//! `banger-vm volume`: disks that outlive VMs.

use lib_cli::{Failure, Session};
use lib_store::Store;

use crate::cli::{VolumeArgs, VolumeVerb};

/// Makes, lists or removes volumes.
pub(crate) fn run(session: &mut Session, args: &VolumeArgs) -> Result<(), Failure> {
    match &args.verb {
        VolumeVerb::Create { name, size } => {
            let store = session.store()?;
            let record = lib_vm::create_volume(&store, &mut session.locks(), name, *size)?;
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
            for name in names {
                let record = lib_vm::delete_volume(&store, &mut locks, name)?;
                session.output.emit(record)?;
            }
            Ok(())
        }
    }
}
