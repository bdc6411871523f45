//! `banger-vm ping`.

use std::time::{Duration, Instant};

use lib_cli::{Failure, Session};
use lib_model::{PingRecord, SCHEMA, Transfer};
use lib_store::VmRow;

use crate::cli::PingArgs;
use crate::{follow, guest, target};

/// Asks the agents something small and says how long that took.
pub(crate) fn run(session: &mut Session, args: &PingArgs) -> Result<(), Failure> {
    let mut store = session.store_to_read()?;
    target::for_each(&mut store, &args.vms, |_, vm| {
        if let Some(size) = args.transfer {
            return transfer(session, &vm, size.0);
        }
        for sequence in 1..=args.count {
            if sequence > 1 {
                follow::pause(args.interval)?;
            }
            let begun = Instant::now();
            let info = guest::of(session, &vm).info();
            let info = info.map_err(|error| guest::failure(session, &vm, "ping", error))?;
            let took = begun.elapsed().as_micros();
            session.output.emit_now(PingRecord {
                schema: SCHEMA,
                id: vm.id.clone(),
                name: vm.name.clone(),
                sequence,
                round_trip_us: u64::try_from(took).unwrap_or(u64::MAX),
                agent: info.version,
                transfer: None,
            })?;
        }
        Ok(())
    })
}

fn transfer(session: &mut Session, vm: &VmRow, bytes: u64) -> Result<(), Failure> {
    let (there, back) = guest::of(session, vm)
        .measure(bytes)
        .map_err(|error| guest::failure(session, vm, "ping --transfer", error))?;
    let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64().max(1e-6);
    session.note(&format!(
        "{}: {:.1} MB/s to the guest, {:.1} MB/s from it",
        vm.name,
        rate(there),
        rate(back)
    ));
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    session.output.emit_now(PingRecord {
        schema: SCHEMA,
        id: vm.id.clone(),
        name: vm.name.clone(),
        sequence: 1,
        round_trip_us: us(there + back),
        agent: String::new(),
        transfer: Some(Transfer {
            bytes,
            sent_us: us(there),
            received_us: us(back),
        }),
    })
}
