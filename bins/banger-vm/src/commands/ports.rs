//! `banger-vm ports`.

use lib_cli::{Failure, Session};
use lib_model::{SCHEMA, SocketRecord, VmState};

use crate::cli::PortsArgs;
use crate::commands::publish;
use crate::{guest, target};

/// Lists sockets of the guests, or what is published of them.
pub(crate) fn run(session: &mut Session, args: &PortsArgs) -> Result<(), Failure> {
    let mut store = session.store_to_read()?;
    target::for_each(&mut store, &args.vms, |_, vm| {
        if args.published {
            let state = lib_vm::record(&session.context, &vm, false).state;
            for port in &vm.spec.publish {
                let active = !matches!(state, VmState::Stopped | VmState::Orphaned);
                session
                    .output
                    .emit(publish::record(&vm, *port, active, false))?;
            }
            return Ok(());
        }
        let sockets = guest::of(session, &vm).sockets(args.probe);
        let sockets = sockets.map_err(|error| guest::failure(session, &vm, "ports", error))?;
        for socket in sockets.sockets {
            session.output.emit(SocketRecord {
                schema: SCHEMA,
                id: vm.id.clone(),
                name: vm.name.clone(),
                protocol: socket.protocol,
                address: socket.address,
                port: socket.port,
                pid: socket.pid,
                process: socket.process,
                http: socket.http,
            })?;
        }
        if sockets.cut {
            session.note(&format!("{} has more sockets than are shown", vm.name));
        }
        Ok(())
    })
}
