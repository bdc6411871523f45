//! What a VM uses: the host's side of it, and what its monitor wrote down.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use banger_wire::agent::Stats;
use banger_wire::monitor::{Sample, file};
use lib_model::{ByteSize, SCHEMA, StatsRecord};
use lib_store::{Context, VmRow};

use crate::DiskKind;

/// The end of the file that certainly has a whole sample.
const TAIL: u64 = 16 * 1024;
/// `USER_HZ` (time(7)).
const MS_PER_TICK: u64 = 10;
const PAGE: u64 = 4096;

/// A record of what the guest said, if it did, and of what the host knows. `before` is an earlier
/// one, for rates.
pub fn statistics(
    context: &Context,
    vm: &VmRow,
    guest: Option<&Stats>,
    before: Option<&Stats>,
    time_ms: u64,
) -> StatsRecord {
    let pid = crate::record(context, vm, false).pid;
    let read = |name: &str| {
        let pid = pid?;
        fs::read_to_string(format!("/proc/{pid}/{name}")).ok()
    };
    let stat = read("stat");
    let words = stat.as_deref().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        Some(rest.split_whitespace().collect::<Vec<_>>())
    });
    // proc_pid_stat(5) counts fields from 1, and the third is behind the name.
    let field = |number: usize| words.as_ref()?.get(number - 3)?.parse::<u64>().ok();
    let smaps = read("smaps_rollup");
    let pss = smaps.as_deref().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    let record = StatsRecord {
        vmm_cpu_ms: field(14).zip(field(15)).map(|(u, s)| (u + s) * MS_PER_TICK),
        vmm_rss: field(24).map(|pages| ByteSize(pages * PAGE)),
        vmm_pss: pss.map(|kib| ByteSize(kib * 1024)),
        ..empty(context, vm, time_ms)
    };
    match guest {
        Some(guest) => with_guest(record, guest, before),
        None => record,
    }
}

/// What the monitor measured last, for a VM that does not run.
pub fn last_sample(context: &Context, vm: &VmRow) -> Option<StatsRecord> {
    let mut file = File::open(context.vm(&vm.id).join(file::STATISTICS)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text).ok()?;
    let sample: Sample = text
        .split(|byte| *byte == b'\n')
        .rev()
        .find_map(|line| serde_json::from_slice(line).ok())?;
    let record = StatsRecord {
        vmm_cpu_ms: sample.vmm_cpu_ms,
        vmm_rss: sample.vmm_rss.map(ByteSize),
        ..empty(context, vm, sample.time_ms)
    };
    Some(with_guest(record, &sample.guest, None))
}

fn empty(context: &Context, vm: &VmRow, time_ms: u64) -> StatsRecord {
    let disk = fs::metadata(DiskKind::path(context, vm)).ok();
    StatsRecord {
        schema: SCHEMA,
        id: vm.id.clone(),
        name: vm.name.clone(),
        time_ms,
        cpu_percent: None,
        cpus: None,
        load: None,
        uptime_ms: None,
        processes: None,
        memory_used: None,
        memory_total: None,
        disk_used: None,
        disk_size: None,
        disk_on_host: disk.map(|disk| ByteSize(disk.blocks() * 512)),
        network_received: None,
        network_sent: None,
        block_read: None,
        block_written: None,
        vmm_cpu_ms: None,
        vmm_rss: None,
        vmm_pss: None,
    }
}

fn with_guest(record: StatsRecord, guest: &Stats, before: Option<&Stats>) -> StatsRecord {
    let used = guest.memory_total.saturating_sub(guest.memory_available);
    StatsRecord {
        cpu_percent: cpu_percent(guest, before),
        cpus: Some(guest.cpus),
        load: Some(guest.load),
        uptime_ms: Some(guest.uptime_ms),
        processes: Some(guest.processes),
        memory_used: Some(ByteSize(used)),
        memory_total: Some(ByteSize(guest.memory_total)),
        disk_used: Some(ByteSize(guest.disk_used)),
        disk_size: Some(ByteSize(guest.disk_size)),
        network_received: Some(ByteSize(guest.network_received)),
        network_sent: Some(ByteSize(guest.network_sent)),
        block_read: Some(ByteSize(guest.block_read)),
        block_written: Some(ByteSize(guest.block_written)),
        ..record
    }
}

/// The guest's words may be lies, so a time that ran backwards is none.
fn cpu_percent(guest: &Stats, before: Option<&Stats>) -> Option<f64> {
    let (busy, time) = match before {
        Some(before) => (
            guest.cpu_busy_ms.checked_sub(before.cpu_busy_ms)?,
            guest.uptime_ms.checked_sub(before.uptime_ms)?,
        ),
        None => (guest.cpu_busy_ms, guest.uptime_ms),
    };
    (time > 0).then(|| busy as f64 * 100.0 / time as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_between_two_looks() {
        let at = |uptime_ms, cpu_busy_ms| Stats {
            uptime_ms,
            cpu_busy_ms,
            ..Stats::default()
        };
        assert_eq!(cpu_percent(&at(2000, 500), None), Some(25.0));
        assert_eq!(cpu_percent(&at(2000, 500), Some(&at(1000, 0))), Some(50.0));
        assert_eq!(cpu_percent(&at(0, 0), None), None);
        assert_eq!(cpu_percent(&at(5, 5), Some(&at(9, 9))), None);
    }
}
